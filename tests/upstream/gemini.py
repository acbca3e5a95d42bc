"""Gemini's REST protocol: a request read, and the reply that a fault makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from . import replies
from .asks import Ask, Outcome, Tool, chosen, dicts, json_object, last_words, words
from .faults import REFUSED, UNREADABLE, Fault
from .journal import Tokens
from .refusals import FOLLOWED, error, refusal
from .said import CHUNKS, Said, said
from .wire import Reply, Request

NAME = "gemini"
MODELS = "/v1beta/models"
METHODS = {"generateContent": "generate", "streamGenerateContent": "stream"}
OTHER_MODEL = "gemini-3.5-flash"
REASONS = {"stop": "STOP", "sequence": "STOP", "tool": "STOP", "length": "MAX_TOKENS"}
REASONS |= {"filtered": "SAFETY", "recited": "RECITATION"}
LONG = {"candidates": [{"content": {"role": "model", "parts": [{"text": "LONG"}]}, "finishReason": "STOP"}]}
FAILED = refusal(Fault("unavailable"), "").pieces[0].replace(b"\n", b"")


# Requests.


def read_ask(request: Request) -> Ask | None:
    """The ask in a generate call, or in a visit to where a redirect led; None for any other request."""
    url = urlsplit(request.target)
    key_in_url = bool(url.query) and "key" in parse_qs(url.query)
    key = request.headers.get("x-goog-api-key", "")
    if url.path.startswith(FOLLOWED):
        return Ask(NAME, unquote(url.path[len(FOLLOWED) :]), "followed", "", "", {}, key, key_in_url)
    model, _, verb = unquote(url.path).removeprefix(MODELS + "/").rpartition(":")
    if request.verb != "POST" or not url.path.startswith(MODELS + "/") or verb not in METHODS:
        return None
    return _ask(model, METHODS[verb], json_object(request.body), key, key_in_url)


def _ask(model: str, method: str, body: dict[str, Any], key: str, key_in_url: bool) -> Ask:
    options = body.get("generationConfig")
    options = options if isinstance(options, dict) else {}
    prompt, system = _prompt(body), _text(body.get("systemInstruction"))
    return Ask(
        NAME,
        model,
        method,
        prompt,
        system,
        body,
        key,
        key_in_url,
        limit=options.get("maxOutputTokens"),
        schema=options.get("responseJsonSchema") or options.get("responseSchema"),
        stops=words(options.get("stopSequences")),
        tool=_tool(body, prompt),
    )


def _tool(body: dict[str, Any], prompt: str) -> Tool | None:
    offered = [card for tool in dicts(body.get("tools")) for card in dicts(tool.get("functionDeclarations"))]
    mode = json_path(body, "toolConfig", "functionCallingConfig").get("mode")
    answered = "functionResponse" in json.dumps(dicts(body.get("contents"))[-1:])
    if not offered or answered or mode == "NONE":
        return None
    schemas = [card.get("parametersJsonSchema") or card.get("parameters") or {} for card in offered]
    tools = [Tool(str(card.get("name")), schema) for card, schema in zip(offered, schemas, strict=True)]
    return chosen(tools, prompt)


def json_path(body: dict[str, Any], *names: str) -> dict[str, Any]:
    """The object under these names, or an empty one."""
    for name in names:
        inner = body.get(name)
        body = inner if isinstance(inner, dict) else {}
    return body


def _prompt(body: dict[str, Any]) -> str:
    turns = dicts(body.get("contents"))
    return last_words(_text(turn) for turn in turns if turn.get("role", "user") == "user")


def _text(content: Any) -> str:
    parts = content.get("parts") if isinstance(content, dict) else None
    return "".join(str(part.get("text", "")) for part in parts or () if isinstance(part, dict))


def objection(ask: Ask) -> Fault | None:
    """What Google finds wrong with a request before any model sees it."""
    if not ask.key:
        return Fault("forbidden")
    if ask.key == "bad-key":
        return Fault("bad_key")
    if ask.method != "followed" and not ask.body.get("contents"):
        return Fault("bad_request")
    return None


def browse(request: Request, retired: Iterable[str]) -> Reply:
    """The list of models, one model, or 404."""
    path = unquote(urlsplit(request.target).path)
    if not request.headers.get("x-goog-api-key"):
        return refusal(Fault("forbidden"), "")
    if request.verb != "GET" or not path.startswith(MODELS):
        return error(404, "NOT_FOUND", "Not found.")
    if path == MODELS:
        return replies.json_reply({"models": [_card("gemini-3.1-flash-lite"), _card(OTHER_MODEL)]})
    name = path.removeprefix(MODELS + "/")
    return refusal(Fault("not_found"), name) if name in retired else replies.json_reply(_card(name))


def _card(name: str) -> dict[str, Any]:
    limits = {"inputTokenLimit": 1048576, "outputTokenLimit": 65536}
    return {"name": f"models/{name}", "supportedGenerationMethods": list(METHODS), **limits}


# Replies.


def outcome(ask: Ask, fault: Fault, number: int) -> Outcome:
    if fault.name in REFUSED:
        return Outcome(refusal(fault, ask.model))
    told = said(ask, fault)
    if fault.name in UNREADABLE:
        return Outcome(replies.unreadable(fault), told.tokens)
    if fault.name in ("huge", "gzip_bomb"):
        return Outcome(replies.oversized(fault, replies.around(LONG)), told.tokens)
    slices = told.slices(CHUNKS if ask.streamed and told.text and not told.tool else 1)
    bodies = [_body(ask, fault, number, told, *part, part is slices[-1]) for part in slices]
    spent = [tokens for _, tokens in slices]
    usages = [None if fault.name == "no_usage" else tokens for tokens in spent]
    pieces = [replies.raw(body) for body in bodies]
    if not ask.streamed:
        return Outcome(replies.good(fault, pieces, stream=False), told.tokens, tuple(usages))
    return replies.streamed(fault, [_event(piece) for piece in pieces], usages, spent, _event(FAILED))


def _event(body: bytes) -> bytes:
    return b"data: " + body + b"\r\n\r\n"


def _body(
    ask: Ask, fault: Fault, number: int, told: Said, text: str, usage: Tokens, last: bool
) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if told.reason:
        candidate: dict[str, Any] = {"content": {"role": "model"}, "index": 0}
        if text:
            candidate["content"]["parts"] = [_part(told, text)]
        if last:
            candidate["finishReason"] = REASONS[told.reason]
        body["candidates"] = [candidate]
    if fault.name == "blocked_prompt":
        body["promptFeedback"] = {"blockReason": "SAFETY"}
    if fault.name != "no_usage":
        body["usageMetadata"] = usage_json(usage)
    other = OTHER_MODEL if fault.name == "other_model" else ask.model
    return {**body, "modelVersion": fault.model or other, "responseId": f"loopback-{number}"}


def _part(told: Said, text: str) -> dict[str, Any]:
    if told.tool and told.reason == "tool":
        return {"functionCall": {"name": told.tool, "args": json.loads(text)}}
    return {"text": text}


def usage_json(tokens: Tokens) -> dict[str, int]:
    """Google leaves zeros out."""
    counts = {
        "promptTokenCount": tokens.prompt,
        "cachedContentTokenCount": tokens.cached,
        "candidatesTokenCount": tokens.candidates,
        "thoughtsTokenCount": tokens.thoughts,
        "totalTokenCount": tokens.total,
    }
    return {name: count for name, count in counts.items() if count}
