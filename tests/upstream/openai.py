"""OpenAI's protocol: chat completions whole and streamed, embeddings and models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from . import replies
from .answers import count
from .asks import Ask, Outcome, Tool, chosen, dicts, json_object, last_words, text_of, words
from .faults import UNREADABLE, Fault
from .journal import Tokens
from .openai_embeddings import embedded, inputs
from .openai_refusals import FOLLOWED, is_refused, refusal
from .said import Said, said
from .wire import Reply, Request

NAME = "openai"
METHODS = {"/v1/chat/completions": "generate", "/v1/embeddings": "embed"}
MODELS = "/v1/models"
OTHER_MODEL = "gpt-5.4-mini"
KNOWN = ("gpt-5.4-nano", OTHER_MODEL, "text-embedding-3-small")
CREATED = 1_773_792_000
REASONS = {
    "sequence": "stop",
    "tool": "tool_calls",
    "filtered": "content_filter",
    "recited": "content_filter",
}
REFUSAL = "I'm sorry, but I can't help with that."
LONG_MESSAGE = {"index": 0, "message": {"role": "assistant", "content": "LONG"}, "finish_reason": "stop"}
LONG_DELTA = {"index": 0, "delta": {"role": "assistant", "content": "LONG"}, "finish_reason": "stop"}
DONE = b"data: [DONE]\n\n"


# Requests.


def read_ask(request: Request) -> Ask | None:
    """The ask in a call that is billed, or in a visit to where a redirect led; None for any other request."""
    url = urlsplit(request.target)
    followed = url.path.startswith(FOLLOWED)
    method = METHODS.get("/v1/" + url.path.removeprefix(FOLLOWED) if followed else url.path)
    if method is None or not (followed or request.verb == "POST"):
        return None
    key = request.headers.get("authorization", "").removeprefix("Bearer").strip()
    key_in_url = bool({"key", "api_key", "api-key"} & set(parse_qs(url.query)))
    body = json_object(request.body)
    if method == "embed":
        model, prompt = str(body.get("model", "")), "\n".join(text for text, _ in inputs(body))
        complete = bool(model and body.get("input"))
        method = "followed" if followed else method
        return Ask(NAME, model, method, prompt, "", body, key, key_in_url, complete=complete)
    method = "followed" if followed else "stream" if body.get("stream") else method
    return _chat(body, method, key, key_in_url)


def _chat(body: dict[str, Any], method: str, key: str, key_in_url: bool) -> Ask:
    turns = dicts(body.get("messages"))
    prompt = last_words(text_of(turn.get("content")) for turn in turns if turn.get("role") == "user")
    rules = [text_of(turn.get("content")) for turn in turns if turn.get("role") in ("system", "developer")]
    return Ask(
        NAME,
        str(body.get("model") or ""),
        method,
        prompt,
        "\n".join(rules),
        body,
        key,
        key_in_url,
        limit=body.get("max_completion_tokens") or body.get("max_tokens"),
        schema=_schema(body.get("response_format")),
        stops=words(body.get("stop")),
        tool=_tool(body, turns, prompt),
        complete=_is_complete(body),
    )


def _schema(wanted: Any) -> dict[str, Any] | None:
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_schema":
        return dict(wanted.get("json_schema", {}).get("schema", {}))
    return {"properties": {"answer": {"type": "string"}}} if kind == "json_object" else None


def _is_strict(schema: Any) -> bool:
    """Whether every object in it names all of its fields as required and allows no others, as OpenAI insists."""
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, dict):
        return True
    fields = schema.get("properties", {})
    whole = set(schema.get("required", ())) == set(fields) and schema.get("additionalProperties") is False
    return (whole or schema.get("type") != "object") and all(map(_is_strict, schema.values()))


def _is_complete(body: dict[str, Any]) -> bool:
    wanted = body.get("response_format")
    card = wanted.get("json_schema") if isinstance(wanted, dict) else None
    sound = not (isinstance(card, dict) and card.get("strict")) or _is_strict(card.get("schema"))
    return bool(body.get("model") and dicts(body.get("messages"))) and sound


def _tool(body: dict[str, Any], turns: list[dict[str, Any]], prompt: str) -> Tool | None:
    choice = body.get("tool_choice")
    if choice == "none" or (turns and turns[-1].get("role") == "tool"):
        return None
    offered = [
        tool["function"] for tool in dicts(body.get("tools")) if isinstance(tool.get("function"), dict)
    ]
    tools = [Tool(str(card.get("name")), card.get("parameters") or {}) for card in offered]
    return chosen(tools, prompt, choice["function"]["name"] if isinstance(choice, dict) else None)


def objection(ask: Ask) -> Fault | None:
    if not ask.key:
        return Fault("unauthorized")
    if ask.key == "bad-key":
        return Fault("bad_key")
    if not ask.complete:
        return Fault("bad_request")
    if ask.misled:
        return Fault("not_found")
    thinks = ask.model.startswith("gpt-6") and ask.body.get("reasoning_effort") != "none"
    return Fault("no_temperature") if thinks and ask.body.get("temperature") not in (None, 1) else None


def browse(request: Request, retired: Iterable[str]) -> Reply:
    path = unquote(urlsplit(request.target).path)
    key = request.headers.get("authorization", "")
    if not key:
        return refusal(Fault("unauthorized"), "", 0)
    if request.verb != "GET" or not path.startswith(MODELS):
        return refusal(Fault("not_found"), path, 0, url=True)
    if path == MODELS:
        return replies.json_reply(
            {"object": "list", "data": [_card(name) for name in KNOWN if name not in retired]}
        )
    name = path.removeprefix(MODELS + "/")
    return refusal(Fault("not_found"), name, 0) if name in retired else replies.json_reply(_card(name))


def _card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "system"}


# Replies.


def outcome(ask: Ask, fault: Fault, number: int) -> Outcome:
    if is_refused(fault):
        return Outcome(refusal(fault, ask.model, number))
    if "input" in ask.body:
        return embedded(ask, fault)
    told = said(ask, fault)
    if fault.name in UNREADABLE:
        return Outcome(replies.unreadable(fault), told.tokens)
    return _streamed(ask, fault, number, told) if ask.streamed else _whole(ask, fault, number, told)


def _whole(ask: Ask, fault: Fault, number: int, told: Said) -> Outcome:
    if fault.name in ("huge", "gzip_bomb"):
        around = replies.around({"id": "chatcmpl-long", "choices": [LONG_MESSAGE], "model": ask.model})
        return Outcome(replies.oversized(fault, around), told.tokens)
    choice = {"index": 0, "message": _message(told), "logprobs": None, "finish_reason": _reason(told)}
    body = _frame(ask, fault, number, "chat.completion", [choice] if fault.name != "no_candidates" else [])
    body["usage"] = usage_json(told.tokens)
    if fault.name == "no_usage":
        del body["usage"]
    reply = replies.good(fault, [replies.raw(body)], stream=False)
    return Outcome(reply, told.tokens, (None if fault.name == "no_usage" else told.tokens,))


def _frame(ask: Ask, fault: Fault, number: int, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    other = OTHER_MODEL if fault.name == "other_model" else ask.model
    known = {"id": f"chatcmpl-loopback-{number}", "object": kind, "created": CREATED, "choices": choices}
    return {**known, "model": fault.model or other, "service_tier": "default", "system_fingerprint": None}


def _message(told: Said) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": told.text, "refusal": None, "annotations": []}
    if told.reason == "refused":
        return {**message, "content": None, "refusal": REFUSAL}
    if told.tool:
        call = {"name": told.tool, "arguments": told.text}
        return {
            **message,
            "content": None,
            "tool_calls": [{"id": _call_id(told), "type": "function", "function": call}],
        }
    return message


def _call_id(told: Said) -> str:
    return f"call_{count(told.text)}_{told.tool}"


def _reason(told: Said) -> str:
    return REASONS.get(told.reason, "length" if told.reason == "length" else "stop")


def usage_json(tokens: Tokens) -> dict[str, Any]:
    """Cached tokens are part of the prompt's, thoughts of the completion's."""
    output = tokens.candidates + tokens.thoughts
    known = {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": output,
        "total_tokens": tokens.prompt + output,
    }
    prompt = {"cached_tokens": tokens.cached, "audio_tokens": 0}
    if tokens.written:
        prompt["cache_write_tokens"] = tokens.written
    completion = {"reasoning_tokens": tokens.thoughts, "audio_tokens": 0}
    return {**known, "prompt_tokens_details": prompt, "completion_tokens_details": completion}


# Streams.


def _streamed(ask: Ask, fault: Fault, number: int, told: Said) -> Outcome:
    """Pieces of text, and a last one with the reason, the usage if it was asked for, and the end mark."""
    if fault.name in ("huge", "gzip_bomb"):
        around = replies.around({"id": "chatcmpl-long", "choices": [LONG_DELTA], "model": ask.model})
        sse = (b"data: " + around[0], around[1] + b"\n\n" + DONE)
        return Outcome(replies.oversized(fault, sse, replies.STREAM), told.tokens)
    options = ask.body.get("stream_options")
    counted = isinstance(options, dict) and bool(options.get("include_usage"))

    def event(choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        body = _frame(ask, fault, number, "chat.completion.chunk", choices)
        return b"data: " + replies.raw({**body, "usage": usage} if counted else body) + b"\n\n"

    slices = told.slices() if told.text else []
    pieces = [event([_delta(told, text, first=place == 0)]) for place, (text, _) in enumerate(slices)]
    pieces.append(b"" if slices else event([_delta(told, "", first=True)]))
    pieces[-1] += event([{"index": 0, "delta": {}, "finish_reason": _reason(told)}])
    if fault.name == "no_candidates":
        pieces = [b""]
    sent = counted and fault.name != "no_usage"
    pieces[-1] += (event([], usage_json(told.tokens)) if sent else b"") + DONE
    usages = [None] * (len(pieces) - 1) + [told.tokens if sent else None]
    spent = [tokens for _, tokens in slices] + [told.tokens]
    failed = b"data: " + refusal(Fault("internal"), ask.model, number).pieces[0] + b"\n\n"
    return replies.streamed(fault, pieces, usages, spent, failed)


def _delta(told: Said, text: str, *, first: bool) -> dict[str, Any]:
    delta: dict[str, Any] = {"role": "assistant", "refusal": None} if first else {}
    if told.reason == "refused":
        delta |= {"content": None, "refusal": REFUSAL}
    elif told.tool:
        call: dict[str, Any] = {"index": 0, "function": {"arguments": text}}
        if first:
            call |= {"id": _call_id(told), "type": "function"}
            call["function"]["name"] = told.tool
        delta |= {"content": None} if first else {}
        delta["tool_calls"] = [call]
    else:
        delta["content"] = text
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
