"""The sandbox: an embedded provider for first steps. Deterministic, no network, free, and it says what it is."""

from __future__ import annotations

import builtins
import json
import keyword
import math
import re
from collections import Counter
from collections.abc import Generator, Sequence
from typing import Any
from zlib import crc32

from chats import Chat
from errors import ModelUnknown
from providers.base import Call, Piece, Reply
from providers.sandbox_json import fitting
from providers.vectors import join_vectors
from tasks import EMBEDDINGS
from wording import CODE_WORDING, Wording

MODEL = "sandbox-1"
QUOTE_CHARS = 200
DIMENSIONS = 256

_WORD = re.compile(r"[^\W\d_]+")
_FILLER = frozenset(
    "a an and are as at be by can code create for from function generate give given good how i in is it make me my "
    "of on or please program python script simple some that the this to using want which with write you your".split()
)

# What typical category names are about, so that a first try with them is not blind.
_MEANINGS = {
    "positive": "love loved great good excellent amazing happy best wonderful perfect nice awesome fast recommend",
    "negative": "hate bad terrible awful worst broken poor disappointed angry slow useless crash refund never wrong",
    "neutral": "okay average fine normal usual",
    "spam": "free win winner prize click offer buy viagra lottery money urgent congratulations cash",
    "billing": "invoice charge charged payment refund price bill card subscription paid cost",
    "technical": "error crash bug login install update server broken password app fails timeout",
    "sports": "game team score match goal player season coach league ball win football tennis",
    "technology": "software computer phone ai chip internet app data code startup device robot",
    "politics": "election government president vote law senate minister party policy parliament",
    "business": "market company stock profit revenue sales shares investor merger economy bank",
    "health": "doctor patient disease hospital medicine virus treatment diet pain vaccine",
    "question": "how what why when where who which can could does",
    "complaint": "unhappy broken late refund terrible unacceptable disappointed wrong never angry",
    "urgent": "immediately asap now emergency critical urgent down deadline",
}

# Bodies for what people try first; whatever else they ask for gets an honest blank.
_RECIPES: tuple[tuple[str, str, str], ...] = (
    (
        "palindrom",
        "text: str",
        "letters = [c.lower() for c in text if c.isalnum()]\n    return letters == letters[::-1]",
    ),
    ("revers", "text: str", "return text[::-1]"),
    (
        "factorial",
        "n: int",
        "product = 1\n    for factor in range(2, n + 1):\n        product *= factor\n    return product",
    ),
    ("fibonacci", "n: int", "a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a"),
    ("prime", "n: int", "return n > 1 and all(n % divisor for divisor in range(2, int(n**0.5) + 1))"),
    ("sort", "items: list", "return sorted(items)"),
    ("vowel", "text: str", 'return sum(c in "aeiou" for c in text.lower())'),
    ("count", "text: str", "return len(text.split())"),
    ("add", "a: float, b: float", "return a + b"),
    ("sum", "items: list", "return sum(items)"),
    ("max", "items: list", "return max(items)"),
    ("hello", "", 'return "Hello, world!"'),
)
_NO_RECIPE = ["*args", 'raise NotImplementedError("The sandbox knows no recipe for this.")']


class SandboxProvider:
    """Answers every task from the ask alone."""

    name = "sandbox"
    offers: frozenset[str] = frozenset({EMBEDDINGS})

    def models(self, requested: str | None, _embeds: bool = False) -> Sequence[str]:
        if requested not in (None, MODEL):
            raise ModelUnknown(
                f"The sandbox has one model, `{MODEL}`. Leave out `model`, or set a provider key.",
                field="model",
            )
        return (MODEL,)

    def call(self, call: Call) -> Reply:
        return Reply(_answer(call.wording), None, MODEL)

    def stream(self, call: Call) -> Generator[Piece, None, Reply]:
        text = _answer(call.wording)
        for word in re.findall(r"\s*\S+|\s+\Z", text):
            yield Piece(word, MODEL)
        return Reply(text, None, MODEL)

    def retired(self, model: str) -> None:
        """The sandbox keeps its model."""

    def warm(self) -> None:
        """There is nothing to load."""


def _answer(wording: Wording) -> str:
    if wording.inputs:
        return join_vectors([vector(text) for text in wording.inputs])
    if wording.chat is not None:
        return _chat_answer(wording.chat)
    if wording.schema is not None:
        return json.dumps(_chosen(wording.text, wording.schema["properties"]))
    if wording.system == CODE_WORDING:
        return code_for(wording.text)
    return _text_for(wording.text)


def _chat_answer(chat: Chat) -> str:
    """JSON where it was asked for, else the last thing that the user said; up to a stop sequence."""
    if chat.schema:
        text = json.dumps(fitting(json.loads(chat.schema).get("schema", {})))
    else:
        text = _text_for(next((turn.text for turn in reversed(chat.turns) if turn.role == "user"), ""))
    return text[: min(place for place in (len(text), *map(text.find, chat.stop)) if place >= 0)]


def vector(text: str) -> list[float]:
    """A unit vector, the closer to another one the more words their texts share."""
    numbers = [0.0] * DIMENSIONS
    for word in _WORD.findall(text.lower()) or [text]:
        numbers[crc32(_stem(word).encode("utf-8", "replace")) % DIMENSIONS] += 1.0
    length = math.hypot(*numbers)
    return [number / length for number in numbers]


def _text_for(prompt: str) -> str:
    return (
        f'[sandbox] You asked: "{_quote(prompt)}". No model was called: this is the built-in sandbox. '
        "Set GOOGLE_API_KEY in .env and start again for real answers."
    )


def _chosen(text: str, asked: dict[str, Any]) -> dict[str, Any]:
    if "categories" in asked:
        return {"categories": fitting_categories(text, asked["categories"]["items"]["enum"])}
    return {"category": best_category(text, asked["category"]["enum"])}


def _quote(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= QUOTE_CHARS else line[:QUOTE_CHARS] + "…"


def code_for(prompt: str) -> str:
    """A Python function that compiles, named and shaped after the prompt."""
    lowered = prompt.lower()
    known = (recipe for stem, *recipe in _RECIPES if re.search(rf"\b{stem}", lowered))
    parameters, body = next(known, _NO_RECIPE)
    return (
        f"def {_function_name(prompt)}({parameters}):\n"
        f"    {f'Sandbox code for: {_quote(prompt)}'!r}\n"
        f"    {body}\n"
    )


def _function_name(prompt: str) -> str:
    words = [word for word in re.findall(r"[a-z]+", prompt.lower()) if word not in _FILLER]
    name = "_".join(words[:3])[:40] or "answer"
    return f"{name}_" if keyword.iskeyword(name) or hasattr(builtins, name) else name


def best_category(text: str, categories: Sequence[str]) -> str:
    """The category whose name and meaning share the most with the text, whatever their order."""
    words = _words(text)
    return max(sorted(categories), key=lambda category: _score(words, category, text.lower()))


def fitting_categories(text: str, categories: Sequence[str]) -> list[str]:
    """Every category whose name or meaning shares a word with the text."""
    words = _words(text)
    return [category for category in categories if _score(words, category, text.lower()) >= 1]


def _words(text: str) -> Counter[str]:
    return Counter(_stem(word) for word in _WORD.findall(text.lower()))


def _score(words: Counter[str], category: str, text: str) -> float:
    names = _WORD.findall(category.lower())
    meaning = " ".join(_MEANINGS.get(name, "") for name in names)
    named = 3.0 * sum(words[_stem(name)] for name in names)
    meant = sum(words[_stem(word)] for word in meaning.split())
    asked = 1.5 if "question" in names and text.rstrip().endswith("?") else 0.0
    # With nothing to go by, "neutral" and its like are the honest guess.
    unsure = 0.5 if {"neutral", "other", "general", "unknown", "none"} & set(names) else 0.0
    return named + meant + asked + unsure


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word
