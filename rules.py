"""What a prompt, a list of categories and a model name may be. Each refusal names the field and the next step."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from errors import InvalidInput

MAX_CATEGORIES = 50
MAX_CATEGORY_CHARS = 100
# A model id, or one with its provider before it. Gemini's ids become part of an address; those of servers that speak
# OpenAI's language do not, and such servers name models like llama3.2:3b or meta-llama/Llama-3.1-8B.
MODEL_NAME = re.compile(
    r"(?:(?:gemini|openai|anthropic|sandbox)/)?[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
    r"|openai/[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}"
)


def text_field(value: Any, field: str, max_chars: int) -> str:
    """A text with something in it, of at most `max_chars` characters, that UTF-8 can carry."""
    if value is None:
        raise InvalidInput(f"`{field}` is missing. Send it as a string.", field=field)
    if not isinstance(value, str):
        raise InvalidInput(f"`{field}` must be a string. Put the text in quotes.", field=field)
    if not value.strip():
        raise InvalidInput(f"`{field}` is empty. Write what you want in it.", field=field)
    if len(value) > max_chars:
        raise InvalidInput(f"`{field}` has {len(value)} characters; send at most {max_chars}.", field=field)
    _carriable(value, field)
    return value


def _carriable(value: str, field: str) -> None:
    if "\0" in value:
        raise InvalidInput(f"`{field}` holds a NUL character. Remove it.", field=field)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInput(
            f"`{field}` holds half a surrogate pair. Send whole characters.", field=field
        ) from None


def category_list(value: Any) -> tuple[str, ...]:
    """One to fifty distinct names, exactly as they were sent."""
    if not isinstance(value, list | tuple):
        raise InvalidInput('`categories` must be a list of strings, such as ["a", "b"].', field="categories")
    if not 1 <= len(value) <= MAX_CATEGORIES:
        raise InvalidInput(f"`categories` must hold 1 to {MAX_CATEGORIES} names.", field="categories")
    names = tuple(text_field(name, "categories", MAX_CATEGORY_CHARS) for name in value)
    if len({unicodedata.normalize("NFC", name).strip() for name in names}) < len(names):
        raise InvalidInput("`categories` names one category twice. Send each once.", field="categories")
    return names


def model_name(value: Any) -> str | None:
    """A model id, or None for the platform's own choice."""
    if value is None:
        return None
    if not isinstance(value, str) or not MODEL_NAME.fullmatch(value):
        raise InvalidInput(
            "`model` must be a model id of letters, digits, `.`, `_` and `-`, alone or after its provider: "
            "`gemini/...`, `openai/...` or `anthropic/...`.",
            field="model",
        )
    return value


def token_limit(value: Any, highest: int) -> int | None:
    """A cap on output tokens, or None for the platform's own."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
        raise InvalidInput(f"`max_tokens` must be a whole number from 1 to {highest}.", field="max_tokens")
    return value


def switch(value: Any, field: str) -> bool:
    """True or false; false if it is left out."""
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidInput(f"`{field}` must be true or false.", field=field)
    return value
