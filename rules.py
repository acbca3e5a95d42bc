"""What a prompt, a list of categories, a model name and other fields may be. Each refusal names the field and the next step."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Iterable
from typing import Any

from errors import InvalidInput

MAX_CATEGORIES = 50
MAX_CATEGORY_CHARS = 100
# Levels of JSON within JSON, such as the schema of a tool.
MAX_DEPTH = 32
# A model id, or one with its provider before it. Gemini's ids become part of an address; those of servers that speak
# OpenAI's language do not, and such servers name models like llama3.2:3b or meta-llama/Llama-3.1-8B.
MODEL_NAME = re.compile(
    r"(?:(?:gemini|openai|anthropic|sandbox)/)?[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
    r"|openai/[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}"
)
PLAIN_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")


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
    carriable(value, field)
    return value


def optional_text(value: Any, field: str, max_chars: int) -> str:
    """The same, or nothing where it was left out."""
    return "" if value is None else text_field(value, field, max_chars)


def plain_word(value: Any, field: str) -> str:
    """The name of a tool or schema, as every provider takes it."""
    if not isinstance(value, str) or not PLAIN_WORD.fullmatch(value):
        raise InvalidInput(f"`{field}` must be 1 to 64 letters, digits, `_` and `-`.", field=field)
    return value


def carriable(value: str, field: str) -> None:
    """Refuse what UTF-8, databases or providers cannot carry."""
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
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise InvalidInput('`categories` must be a list of strings, such as ["a", "b"].', field="categories")
    if not 1 <= len(value) <= MAX_CATEGORIES:
        raise InvalidInput(f"`categories` must hold 1 to {MAX_CATEGORIES} names.", field="categories")
    names = tuple(text_field(name, "categories", MAX_CATEGORY_CHARS) for name in value)
    if len({unicodedata.normalize("NFC", name).strip() for name in names}) < len(names):
        raise InvalidInput("`categories` names one category twice. Send each once.", field="categories")
    return names


def correct_category(value: Any) -> str | tuple[str, ...]:
    """The name of a category, or a list of different ones that may be empty."""
    if not isinstance(value, list):
        return text_field(value, "correct_category", MAX_CATEGORY_CHARS)
    names = tuple(text_field(name, "correct_category", MAX_CATEGORY_CHARS) for name in value)
    if len(names) > MAX_CATEGORIES or len(set(names)) < len(names):
        raise InvalidInput(
            f"`correct_category` must name at most {MAX_CATEGORIES} categories, each once.",
            field="correct_category",
        )
    return names


def model_name(value: Any) -> str | None:
    """A model id, or None for the platform's own choice."""
    if value is None:
        return None
    if not isinstance(value, str) or not MODEL_NAME.fullmatch(value):
        raise InvalidInput(
            "`model` must be a model id of letters, digits, `.`, `_` and `-` (with `:` and `/` after `openai/`), alone or after its provider: "
            "`gemini/...`, `openai/...` or `anthropic/...`.",
            field="model",
        )
    return value


def token_limit(value: Any, highest: int, field: str = "max_tokens") -> int | None:
    """A cap on output tokens, or None for the platform's own."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
        raise InvalidInput(f"`{field}` must be a whole number from 1 to {highest}.", field=field)
    return value


def number(value: Any, field: str, low: int, high: int) -> float | None:
    """A number in a range, or None for one that was left out."""
    if value is None:
        return None
    # NaN cannot get here, and what is too large for a float is beyond every range.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidInput(f"`{field}` must be a number from {low} to {high}.", field=field)
    return float(value)


def one_of(value: Any, field: str, allowed: Collection[str]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise InvalidInput(f"`{field}` must be one of {listed(allowed)}.", field=field)
    return value


def an_object(value: Any, field: str, known: Collection[str]) -> dict[str, Any]:
    """A JSON object that holds known fields only."""
    if not isinstance(value, dict):
        raise InvalidInput(f"`{field}` must be an object with the fields {listed(known)}.", field=field)
    strange = next((name for name in value if name not in known), None)
    if strange is not None:
        where = f"{field}.{short(strange)}"
        raise InvalidInput(f"There is no field `{where}`. Known: {listed(known)}.", field=where)
    return value


def a_list(value: Any, field: str, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(f"`{field}` must be a list.", field=field)
    if not 1 <= len(value) <= most:
        raise InvalidInput(f"`{field}` must hold 1 to {most} entries.", field=field)
    return value


def carriable_json(value: Any, field: str) -> None:
    """Refuse JSON that is nested too deeply or holds what a string or number of ours may not."""
    layer = [value]
    for _ in range(MAX_DEPTH):
        for each in layer:
            _carriable_scalar(each, field)
        layer = [part for each in layer for part in _parts(each)]
        if not layer:
            return
    raise InvalidInput(f"`{field}` is nested more than {MAX_DEPTH} deep. Make it flatter.", field=field)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else []


def _carriable_scalar(value: Any, field: str) -> None:
    if isinstance(value, str):
        carriable(value, field)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"`{field}` holds a number that is too large. Send a smaller one.", field=field)


def short(name: str) -> str:
    """A name that a caller chose, as an error may quote it."""
    return name.encode("ascii", "backslashreplace").decode()[:64]


def listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def switch(value: Any, field: str) -> bool:
    """True or false; false if it is left out."""
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidInput(f"`{field}` must be true or false.", field=field)
    return value
