"""A file of classification cases, one JSON object a line; it is read whole before anything is spent on it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rules
from commands.terminal import Refused
from errors import InvalidInput

NEEDED = ("text", "categories", "expected")
FIELDS = (*NEEDED, "max_tokens")


@dataclass(frozen=True, slots=True)
class Case:
    """A text, and which of the categories is right for it; with multi_label all that are, in their order."""

    line: int
    text: str
    categories: tuple[str, ...]
    expected: tuple[str, ...]
    multi_label: bool
    max_tokens: int | None = None


def read_cases(path: Path, max_chars: int, most_tokens: int) -> list[Case]:
    """Every case of the file. Raises Refused, naming the first bad line and its field."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            cases = list(_cases(file, path, max_chars, most_tokens))
    except OSError as failure:
        raise Refused(f"{path} cannot be read ({failure.strerror}). Name another --file.") from None
    except UnicodeDecodeError:
        raise Refused(f"{path} is not UTF-8 text. Save it as UTF-8, then try again.") from None
    if not cases:
        raise Refused(f"{path} holds no case. Write one JSON object a line, with {_listed(NEEDED)}.")
    return cases


def _cases(lines: Iterable[str], path: Path, max_chars: int, most_tokens: int) -> Iterator[Case]:
    usual: tuple[str, ...] | None = None
    for number, line in enumerate(lines, 1):
        try:
            told = _object(line) if line.strip() else {}
            if set(told) == {"categories"}:  # for the lines after it
                usual = rules.category_list(told["categories"])
            elif told:
                capped = rules.token_limit(told.get("max_tokens"), most_tokens)
                yield replace(_case(number, told, usual, max_chars), max_tokens=capped)
        except InvalidInput as wrong:
            raise Refused(f"{path}, line {number}: {wrong}") from None


def _object(line: str) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or not told:
        raise InvalidInput(f"this is no JSON object. Write one, with {_listed(NEEDED)}.")
    for name in told:
        if name not in FIELDS:
            raise InvalidInput(f"there is no field `{name}`. Known: {_listed(FIELDS)}.", field=name)
    return told


def _case(number: int, told: dict[str, Any], usual: tuple[str, ...] | None, max_chars: int) -> Case:
    text = rules.text_field(told.get("text"), "text", max_chars)
    categories = usual if usual and "categories" not in told else rules.category_list(told.get("categories"))
    expected, several = told.get("expected"), isinstance(told.get("expected"), list)
    names = expected if isinstance(expected, list) else [expected]
    if not all(name in categories for name in names):
        raise InvalidInput(
            "`expected` must be one of `categories`, letter by letter, or a list of those that are right.",
            field="expected",
        )
    return Case(number, text, categories, tuple(name for name in categories if name in names), several)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
