"""Anthropic's protocol: messages whole and streamed, and models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from . import replies
from .anthropic_refusals import FOLLOWED, is_refused, refusal
from .asks import Ask, Outcome, Tool, chosen, dicts, json_object, last_words, text_of, words
from .faults import UNREADABLE, Fault
from .journal import Tokens
from .said import Said, said
from .wire import Reply, Request

NAME = "anthropic"
MESSAGES = "/v1/messages"
MODELS = "/v1/models"
OTHER_MODEL = "claude-haiku-4-5"
KNOWN = ("claude-haiku-5-5", OTHER_MODEL)
NEEDED = ("model", "max_tokens", "messages")
# They take no temperature.
SETTLED = ("claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5")
REASONS = {
    "stop": "end_turn",
    "sequence": "stop_sequence",
    "length": "max_tokens",
    "tool": "tool_use",
    "filtered": "refusal",
    "refused": "refusal",
}
LONG = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": "LONG"}],
    "stop_reason": "end_turn",
}
LONG_DELTA = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "LONG"}}


# Requests.


def read_ask(request: Request) -> Ask | None:
    """The ask in a call that is billed, or in a visit to where a redirect led; None for any other request."""
    url = urlsplit(request.target)
    followed = url.path == FOLLOWED
    if not followed and (request.verb, url.path) != ("POST", MESSAGES):
        return None
    body = json_object(request.body)
    turns = dicts(body.get("messages"))
    prompt = last_words(text_of(turn.get("content")) for turn in turns if turn.get("role") == "user")
    return Ask(
        NAME,
        str(body.get("model") or ""),
        "followed" if followed else "stream" if body.get("stream") else "generate",
        prompt,
        text_of(body.get("system")),
        body,
        _key(request),
        bool({"key", "api_key", "api-key"} & set(parse_qs(url.query))),
        limit=body.get("max_tokens"),
        schema=_schema(body),
        stops=words(body.get("stop_sequences")),
        tool=_tool(body, turns, prompt),
        writes_cache=b'"cache_control"' in request.body,
        complete="anthropic-version" in request.headers and all(map(body.get, NEEDED)),
    )


def _key(request: Request) -> str:
    """Keys come in a header of their own, tokens as a bearer's."""
    bearer = request.headers.get("authorization", "").removeprefix("Bearer").strip()
    return request.headers.get("x-api-key", "") or bearer


def _schema(body: dict[str, Any]) -> dict[str, Any] | None:
    wanted = body.get("output_config")
    form = wanted.get("format") if isinstance(wanted, dict) else None
    return dict(form["schema"]) if isinstance(form, dict) and form.get("type") == "json_schema" else None


def _tool(body: dict[str, Any], turns: list[dict[str, Any]], prompt: str) -> Tool | None:
    choice = body.get("tool_choice")
    choice = choice if isinstance(choice, dict) else {}
    answered = bool(turns) and any(
        part.get("type") == "tool_result" for part in dicts(turns[-1].get("content"))
    )
    if choice.get("type") == "none" or answered:
        return None
    tools = [Tool(str(tool.get("name")), tool.get("input_schema") or {}) for tool in dicts(body.get("tools"))]
    return chosen(tools, prompt, choice.get("name"))


def objection(ask: Ask) -> Fault | None:
    if not ask.key:
        return Fault("unauthorized")
    if ask.key == "bad-key":
        return Fault("bad_key")
    if not ask.complete:
        return Fault("bad_request")
    if ask.misled:
        return Fault("not_found")
    warmth = ask.body.get("temperature")
    return Fault("no_temperature") if ask.model.startswith(SETTLED) and warmth not in (None, 1) else None


def browse(request: Request, retired: Iterable[str]) -> Reply:
    path = unquote(urlsplit(request.target).path)
    if not _key(request):
        return refusal(Fault("unauthorized"), "", 0)
    if request.verb != "GET" or not path.startswith(MODELS):
        return refusal(Fault("not_found"), path, 0)
    if path == MODELS:
        cards = [_card(name) for name in KNOWN if name not in retired]
        ends = {"first_id": cards[0]["id"], "last_id": cards[-1]["id"]} if cards else {}
        return replies.json_reply({"data": cards, "has_more": False, **ends})
    name = path.removeprefix(MODELS + "/")
    return refusal(Fault("not_found"), name, 0) if name in retired else replies.json_reply(_card(name))


def _card(name: str) -> dict[str, Any]:
    known = {"type": "model", "id": name, "display_name": name, "created_at": "2026-10-07T00:00:00Z"}
    return {**known, "lifecycle": "active"}


# Replies.


def outcome(ask: Ask, fault: Fault, number: int) -> Outcome:
    if is_refused(fault):
        return Outcome(refusal(fault, ask.model, number))
    told = said(ask, fault)
    if fault.name in UNREADABLE:
        return Outcome(replies.unreadable(fault), told.tokens)
    if fault.name in ("huge", "gzip_bomb"):
        return Outcome(_oversized(ask, fault), told.tokens)
    return _streamed(ask, fault, number, told) if ask.streamed else _whole(ask, fault, number, told)


def _oversized(ask: Ask, fault: Fault) -> Reply:
    if not ask.streamed:
        return replies.oversized(fault, replies.around({**LONG, "model": ask.model}))
    before, after = replies.around(LONG_DELTA)
    sse = (b"event: content_block_delta\ndata: " + before, after + b"\n\n")
    return replies.oversized(fault, sse, replies.STREAM)


def _whole(ask: Ask, fault: Fault, number: int, told: Said) -> Outcome:
    content = []
    if told.tool:
        known = {"type": "tool_use", "id": f"toolu_{number}", "name": told.tool}
        content = [{**known, "input": json_object(told.text.encode())}]
    elif told.text:
        content = [{"type": "text", "text": told.text}]
    body = {
        **_message(ask, fault, number, usage_json(told.tokens)),
        "content": content,
        **_ending(fault, told),
    }
    if fault.name == "no_usage":
        del body["usage"]
    reply = replies.good(fault, [replies.raw(body)], stream=False)
    return Outcome(reply, told.tokens, (None if fault.name == "no_usage" else told.tokens,))


def _message(ask: Ask, fault: Fault, number: int, usage: dict[str, Any]) -> dict[str, Any]:
    other = OTHER_MODEL if fault.name == "other_model" else ask.model
    known = {"id": f"msg_loopback{number}", "type": "message", "role": "assistant", "content": []}
    blank = {"stop_reason": None, "stop_sequence": None, "stop_details": None}
    return {**known, "model": fault.model or other, **blank, "usage": usage}


def _ending(fault: Fault, told: Said) -> dict[str, Any]:
    reason = REASONS.get(told.reason, "refusal" if fault.name == "blocked_prompt" else "end_turn")
    details = (
        {"type": "refusal", "category": "general_harms", "explanation": None} if reason == "refusal" else None
    )
    return {"stop_reason": reason, "stop_sequence": told.sequence or None, "stop_details": details}


def usage_json(tokens: Tokens) -> dict[str, Any]:
    """What was read from the cache or written to it stands beside the input; thoughts are part of the output."""
    return {
        "input_tokens": tokens.prompt - tokens.cached - tokens.written,
        "cache_read_input_tokens": tokens.cached,
        "cache_creation_input_tokens": tokens.written,
        "cache_creation": {"ephemeral_5m_input_tokens": tokens.written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": tokens.candidates + tokens.thoughts,
        "output_tokens_details": {"thinking_tokens": tokens.thoughts},
        "service_tier": "standard",
    }


# Streams.


def _streamed(ask: Ask, fault: Fault, number: int, told: Said) -> Outcome:
    """The start with the first words, pieces of text, and a last one with the reason and the usage."""
    first = replace(told.tokens, candidates=min(1, told.tokens.candidates), thoughts=0)
    start = _message(ask, fault, number, usage_json(first))
    delta = {"delta": _ending(fault, told), "usage": usage_json(told.tokens)}
    if fault.name == "no_usage":
        del start["usage"], delta["usage"]
    opening = _event("message_start", message=start)
    closing = _event("message_delta", **delta) + _event("message_stop")
    slices = told.slices() if told.text or told.tool else []
    deltas = [_delta(told, text) for text, _ in slices]
    pieces = [opening + closing]
    if slices:
        opening += _event("content_block_start", index=0, content_block=_block(told, number)) + _event("ping")
        pieces = [opening + deltas[0], *deltas[1:], _event("content_block_stop", index=0) + closing]
    known = [first] * (len(pieces) - 1) + [told.tokens]
    usages = [None if fault.name == "no_usage" else tokens for tokens in known]
    spent = [tokens for _, tokens in slices] + [told.tokens]
    failed = b"event: error\ndata: " + refusal(Fault("overloaded"), ask.model, number).pieces[0] + b"\n\n"
    return replies.streamed(fault, pieces, usages, spent, failed)


def _event(kind: str, **facts: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + replies.raw({"type": kind, **facts}) + b"\n\n"


def _block(told: Said, number: int) -> dict[str, Any]:
    if told.tool:
        return {"type": "tool_use", "id": f"toolu_{number}", "name": told.tool, "input": {}}
    return {"type": "text", "text": ""}


def _delta(told: Said, text: str) -> bytes:
    kind = (
        {"type": "input_json_delta", "partial_json": text}
        if told.tool
        else {"type": "text_delta", "text": text}
    )
    return _event("content_block_delta", index=0, delta=kind)
