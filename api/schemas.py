"""From an HTTP body to an Ask, or a refusal that names the field."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, NoReturn

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

import rules
from api.visit import current_request, current_visit
from config import Settings
from errors import InvalidInput, UnsupportedMedia
from tasks import Ask, Task

GENERATE_FIELDS = frozenset({"prompt", "model", "max_tokens", "stream"})
CLASSIFY_FIELDS = frozenset({"text", "categories", "model", "max_tokens", "multi_label"})


def read_generate(task: Task, settings: Settings) -> tuple[Ask, bool]:
    """The Ask of one of the two generate routes, and whether its answer is to come as a stream."""
    body = read_body(GENERATE_FIELDS)
    ask = make_ask(
        task,
        rules.text_field(body.get("prompt"), "prompt", settings.max_prompt_chars),
        settings,
        model=rules.model_name(body.get("model")),
        max_tokens=rules.token_limit(body.get("max_tokens"), settings.max_output_tokens),
    )
    return ask, rules.switch(body.get("stream"), "stream")


def read_classify(settings: Settings) -> Ask:
    """The Ask of the classify route."""
    body = read_body(CLASSIFY_FIELDS)
    return make_ask(
        Task.CLASSIFY,
        rules.text_field(body.get("text"), "text", settings.max_prompt_chars),
        settings,
        categories=rules.category_list(body.get("categories")),
        multi_label=rules.switch(body.get("multi_label"), "multi_label"),
        model=rules.model_name(body.get("model")),
        max_tokens=rules.token_limit(body.get("max_tokens"), settings.max_output_tokens),
    )


def make_ask(task: Task, text: str, settings: Settings, **options: Any) -> Ask:
    """The Ask of the request at hand."""
    visit, asked = current_visit(), current_request()
    visit.prompt, caller = text, visit.identity
    fresh = _cache_directives(asked)
    return Ask(
        task,
        text,
        tenant=caller.tenant,
        key_id=caller.key_id,
        user_id=caller.user_id,
        budgets=caller.budgets,
        models=caller.models,
        deadline=visit.started + settings.llm_timeout_seconds,
        address=asked.remote_addr or "",
        route=asked.path,
        request_id=visit.request_id,
        reads_cache="no-cache" not in fresh and "no-store" not in fresh,
        writes_cache="no-store" not in fresh,
        **options,
    )


def _cache_directives(asked: Request) -> set[str]:
    header = asked.environ.get("HTTP_CACHE_CONTROL")
    return {part.strip().lower() for part in header.split(",")} if header else set()


def read_body(known: Iterable[str], example: str = '{"prompt": "Hello"}') -> dict[str, Any]:
    """The body as a JSON object that holds known fields only, each once; the example is for whoever sends none."""
    asked = current_request()
    if not _is_json(asked) or "HTTP_CONTENT_ENCODING" in asked.environ:
        raise UnsupportedMedia()
    body = _parse(body_of(asked), example)
    for name in body:
        if name not in known:
            raise InvalidInput(
                f"There is no field `{rules.short(name)}`. Known: {rules.listed(known)}.",
                field=rules.short(name),
            )
    return body


def _is_json(asked: Request) -> bool:
    # The plain spelling first: taking a media type apart costs as much as reading the body.
    return asked.environ.get("CONTENT_TYPE") == "application/json" or asked.mimetype == "application/json"


def body_of(asked: Request) -> bytes:
    """The body. Where its length is known it is read at once, past the counting stream that would guard it."""
    length = asked.environ.get("CONTENT_LENGTH", "")
    if not length.isdecimal():
        return asked.get_data(cache=False)
    if len(length) > 12 or int(length) > (asked.max_content_length or 0):
        raise RequestEntityTooLarge()
    data: bytes = asked.environ["wsgi.input"].read(int(length))
    return data


def _parse(data: bytes, example: str) -> dict[str, Any]:
    try:
        body = STRICT.decode(data.decode())
    except (ValueError, RecursionError):
        raise InvalidInput(f"The body is not JSON. Send an object such as {example}.") from None
    if not isinstance(body, dict):
        raise InvalidInput(f"The body must be a JSON object, such as {example}.")
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    if len(body) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise InvalidInput(
            f"The field `{rules.short(twice)}` stands twice. Send it once.", field=rules.short(twice)
        )
    return body


STRICT = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_once_each)
