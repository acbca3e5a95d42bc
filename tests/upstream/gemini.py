"""Gemini's REST protocol: a request read, and the reply that a fault makes of it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .answers import answer_text, tokens_for, within
from .faults import REFUSED, Fault
from .journal import Tokens
from .refusals import CANARY, FOLLOWED, error, refusal
from .wire import Reply, Request

MODELS = "/v1beta/models"
METHODS = {"generateContent": "generate", "streamGenerateContent": "stream"}
CHUNKS = 4  # of a stream
MIB = 1024 * 1024
OTHER_MODEL = "gemini-3.5-flash"
UNREADABLE = ("garbage", "html", "wrong_schema")
MANNERS = {"reset_before": "reset", "cut_body": "cut", "hang": "hang", "drip": "drip"}


@dataclass(frozen=True, slots=True)
class Ask:
    model: str
    method: str
    prompt: str
    system: str
    body: dict[str, Any]
    key: str
    key_in_url: bool

    @property
    def options(self) -> dict[str, Any]:
        options = self.body.get("generationConfig")
        return options if isinstance(options, dict) else {}

    @property
    def schema(self) -> dict[str, Any] | None:
        return self.options.get("responseJsonSchema") or self.options.get("responseSchema")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A reply, what it is billed at, and the usage a client has read after each of its pieces."""

    reply: Reply
    billed: Tokens | None = None
    usages: tuple[Tokens | None, ...] = ()

    def reported(self, pieces: int | None) -> Tokens | None:
        """The usage in the first so many pieces; none of them left when the head did not."""
        known = [usage for usage in self.usages[: pieces or 0] if usage is not None]
        return known[-1] if known else None


# Requests.


def read_ask(request: Request) -> Ask | None:
    """The ask in a generate call, or in a visit to where a redirect led; None for any other request."""
    url = urlsplit(request.target)
    key_in_url = "key" in parse_qs(url.query)
    key = request.headers.get("x-goog-api-key", "")
    if url.path.startswith(FOLLOWED):
        return Ask(unquote(url.path[len(FOLLOWED) :]), "followed", "", "", {}, key, key_in_url)
    model, _, verb = unquote(url.path).removeprefix(MODELS + "/").rpartition(":")
    if request.verb != "POST" or not url.path.startswith(MODELS + "/") or verb not in METHODS:
        return None
    body = _json_object(request.body)
    prompt, system = _prompt(body), _text(body.get("systemInstruction"))
    return Ask(model, METHODS[verb], prompt, system, body, key, key_in_url)


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _prompt(body: dict[str, Any]) -> str:
    """The user's last words."""
    contents = body.get("contents")
    turns = [turn for turn in contents if isinstance(turn, dict)] if isinstance(contents, list) else []
    said = [_text(turn) for turn in turns if turn.get("role", "user") == "user"]
    return said[-1] if said else ""


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
        return _json_reply({"models": [_card("gemini-3.1-flash-lite"), _card(OTHER_MODEL)]})
    name = path.removeprefix(MODELS + "/")
    return refusal(Fault("not_found"), name) if name in retired else _json_reply(_card(name))


def _card(name: str) -> dict[str, Any]:
    limits = {"inputTokenLimit": 1048576, "outputTokenLimit": 65536}
    return {"name": f"models/{name}", "supportedGenerationMethods": list(METHODS), **limits}


def _json_reply(value: Any) -> Reply:
    return Reply(200, (json.dumps(value).encode(),))


# Replies.


def outcome(ask: Ask, fault: Fault, number: int) -> Outcome:
    if fault.name in REFUSED:
        return Outcome(refusal(fault, ask.model))
    text, tokens, reason = _said(ask, fault)
    if fault.name in UNREADABLE:
        return Outcome(_unreadable(fault), tokens)
    if fault.name in ("huge", "gzip_bomb"):
        return Outcome(_oversized(fault), tokens)
    chunks = _chunks(text, tokens, reason, 1 if ask.method != "stream" or not text else CHUNKS)
    bodies = [_body(ask, fault, number, *chunk) for chunk in chunks]
    usages = [None if fault.name == "no_usage" else usage for _, usage, _ in chunks]
    return Outcome(_reply(ask, fault, bodies), tokens, tuple(usages))


def _said(ask: Ask, fault: Fault) -> tuple[str, Tokens, str]:
    """Text, the tokens it is billed at, and the finish reason."""
    given = None if fault.name in UNREADABLE else fault.text
    text = answer_text(ask.model, ask.system, ask.prompt, ask.schema) if given is None else given
    tokens = tokens_for(ask.prompt, ask.system, text)
    cut = fault.name == "max_tokens"
    if cut:
        text = text[: len(text) // 2]
        tokens = tokens_for(ask.prompt, ask.system, text)
    elif given is None and fault.usage is None:
        text, tokens, cut = within(ask.options.get("maxOutputTokens"), text, tokens)
    text, tokens, reason = _without_text(ask, fault, text, tokens, "MAX_TOKENS" if cut else "STOP")
    return text, fault.usage or tokens, reason


def _without_text(ask: Ask, fault: Fault, text: str, tokens: Tokens, reason: str) -> tuple[str, Tokens, str]:
    """The soft failures: a 200 that says nothing and is billed all the same."""
    if fault.name in ("blocked_prompt", "no_candidates"):
        return "", replace(tokens, candidates=0, thoughts=0), ""
    if fault.name in ("blocked_answer", "recitation"):
        return "", replace(tokens, candidates=0), "SAFETY" if fault.name == "blocked_answer" else "RECITATION"
    if fault.name == "empty":
        spent = ask.options.get("maxOutputTokens") or tokens.candidates + tokens.thoughts
        return "", replace(tokens, candidates=0, thoughts=spent), "MAX_TOKENS"
    return text, tokens, reason


def _chunks(text: str, tokens: Tokens, reason: str, count: int) -> list[tuple[str, Tokens, str]]:
    """Text in slices with usage so far, as Gemini streams it; the reason comes with the last."""
    edges = [len(text) * part // count for part in range(count + 1)]
    return [
        (
            text[edges[part] : edges[part + 1]],
            replace(tokens, candidates=tokens.candidates * (part + 1) // count),
            reason if part == count - 1 else "",
        )
        for part in range(count)
    ]


def _body(ask: Ask, fault: Fault, number: int, text: str, usage: Tokens, reason: str) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if fault.name not in ("blocked_prompt", "no_candidates"):
        candidate: dict[str, Any] = {"content": {"role": "model"}, "index": 0}
        if text:
            candidate["content"]["parts"] = [{"text": text}]
        if reason:
            candidate["finishReason"] = reason
        body["candidates"] = [candidate]
    if fault.name == "blocked_prompt":
        body["promptFeedback"] = {"blockReason": "SAFETY"}
    if fault.name != "no_usage":
        body["usageMetadata"] = usage_json(usage)
    other = OTHER_MODEL if fault.name == "other_model" else ask.model
    return {**body, "modelVersion": fault.model or other, "responseId": f"loopback-{number}"}


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


def _reply(ask: Ask, fault: Fault, bodies: list[dict[str, Any]]) -> Reply:
    stream = ask.method == "stream"
    raw = [json.dumps(body, ensure_ascii=False).encode("utf-8", "replace") for body in bodies]
    return Reply(
        200,
        tuple(b"data: " + piece + b"\r\n\r\n" for piece in raw) if stream else tuple(raw),
        "text/event-stream" if stream else "application/json; charset=UTF-8",
        fault.headers,
        chunked=stream,
        manner=MANNERS.get(fault.name, "whole"),
        wait=fault.wait if fault.name == "slow" else 0.0,
        seconds=fault.wait,
        pause=fault.pause,
    )


def _unreadable(fault: Fault) -> Reply:
    kind = "text/html; charset=UTF-8" if fault.name == "html" else "application/json; charset=UTF-8"
    bodies = {
        "garbage": '{"candidates": [{"content": \x00 ' + CANARY,
        "html": f"<html><body>Sign in to continue [{CANARY}]</body></html>",
        "wrong_schema": '{"foo": 1}',
    }
    body = bodies[fault.name] if fault.text is None else fault.text
    return Reply(200, (body.encode(),), kind, fault.headers)


def _oversized(fault: Fault) -> Reply:
    """Good JSON in form, and without usage: a client that stops reading early misses nothing."""
    if fault.name == "huge":
        return Reply(200, (b"".join(_long_answer(9)),), headers=fault.headers)
    return Reply(200, (_bomb(),), headers=(("Content-Encoding", "gzip"), *fault.headers))


def _long_answer(mebibytes: int) -> Iterable[bytes]:
    yield b'{"candidates": [{"content": {"role": "model", "parts": [{"text": "'
    for _ in range(mebibytes):
        yield b"a" * MIB
    yield b'"}]}, "finishReason": "STOP"}]}'


@cache
def _bomb() -> bytes:
    packer = zlib.compressobj(level=9, wbits=31)
    return b"".join(packer.compress(part) for part in _long_answer(32)) + packer.flush()
