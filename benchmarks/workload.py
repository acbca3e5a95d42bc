"""The workload of the savings: asks whose popularity is Zipf-shaped, the same ones for the same shape and seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

READERS = ["a new colleague", "a customer", "the board", "a ten-year-old", "an engineer", "the press"]
TOPICS = [
    "our refund rules",
    "the July invoice",
    "two-factor sign-in",
    "last week's outage",
    "the delivery delay",
]
TOPICS += [
    "the new price list",
    "how a cache works",
    "the travel policy",
    "our on-call rota",
    "data retention",
]
WANTS = [
    "Explain",
    "Summarise",
    "Write a friendly mail about",
    "List the risks of",
    "Draft an announcement of",
]
LANGUAGES = ["Python", "TypeScript", "Go", "Rust", "SQL", "Bash", "Java"]
JOBS = ["parses a date in any common form", "merges two sorted lists", "retries a call with backoff"]
JOBS += ["counts the words of a file", "validates an e-mail address", "finds duplicates in a table"]
MOODS = [
    "I am delighted with",
    "I still wait for word on",
    "Nobody could explain",
    "I am tired of",
    "Thanks for",
]
CHOICES = [
    ("positive", "negative", "neutral"),
    ("billing", "delivery", "sign-in", "other"),
    ("urgent", "can wait"),
]
WORDS = (
    "the order was late again and nobody told us why so we wrote to support who sent a form about an invoice"
)
# How many words of notes or of somebody's mail are pasted below an ask: mostly none, sometimes a page.
PASTED = (0, 0, 0, 30, 120, 500)


class Ask(NamedTuple):
    """One ask as it is posted. No two asks of a catalogue have the same text, whatever their task."""

    path: str
    text: str
    categories: tuple[str, ...] = ()

    @property
    def body(self) -> dict[str, Any]:
        if self.categories:
            return {"text": self.text, "categories": self.categories}
        return {"prompt": self.text}


@dataclass(frozen=True, slots=True)
class Moment:
    """Asks that are in flight together; where `fresh`, their callers all insist on new answers."""

    asks: tuple[Ask, ...]
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """How many requests, over how many different asks, drawn how unevenly.

    The ask of rank r is drawn in proportion to 1 / r ** exponent. Of the moments, `fresh_share` send `no-cache`, and in
    `crowd_share` a crowd of `in_flight` callers asks one and the same thing, which is drawn without regard to its rank.
    """

    requests: int = 4000
    exponent: float = 1.0
    catalogue: int = 10_000
    in_flight: int = 8
    fresh_share: float = 0.05
    crowd_share: float = 0.05
    seed: int = 1


def workload(shape: Shape) -> list[Moment]:
    """Moments in order, `requests` asks in all."""
    chance = random.Random(shape.seed)
    ranks = _ranks(shape, chance)
    return [
        _moment(shape, chance, ranks, min(shape.in_flight, shape.requests - begun))
        for begun in range(0, shape.requests, shape.in_flight)
    ]


def _ranks(shape: Shape, chance: random.Random) -> Iterator[int]:
    heights = list(accumulate(rank**-shape.exponent for rank in range(1, shape.catalogue + 1)))
    everyone = range(1, shape.catalogue + 1)
    while True:
        yield from chance.choices(everyone, cum_weights=heights, k=1000)


def _moment(shape: Shape, chance: random.Random, ranks: Iterator[int], size: int) -> Moment:
    kind = chance.random()
    if kind < shape.crowd_share:
        return Moment((ask_of(chance.randint(1, shape.catalogue), shape.seed),) * size)
    asks = tuple(ask_of(next(ranks), shape.seed) for _ in range(size))
    # A whole moment is fresh or none of it: what is paid would hang on who comes first otherwise.
    return Moment(asks, fresh=kind < shape.crowd_share + shape.fresh_share)


@lru_cache(maxsize=100_000)
def ask_of(rank: int, seed: int) -> Ask:
    """The ask of a rank: its task, words and length are drawn by rank and seed alone."""
    chance = random.Random(f"{seed}/{rank}")
    task, words = chance.random(), chance.choice(PASTED)
    notes = "\n\n" + " ".join(chance.choices(WORDS.split(), k=words)) if words else ""
    if task < 0.5:
        said = f"{chance.choice(WANTS)} {chance.choice(TOPICS)} for {chance.choice(READERS)}, case {rank}.{notes}"
        return Ask("/api/v1/generate/text", said)
    if task < 0.75:
        said = f"Write a {chance.choice(LANGUAGES)} function that {chance.choice(JOBS)}, case {rank}.{notes}"
        return Ask("/api/v1/generate/code", said)
    said = f"{chance.choice(MOODS)} {chance.choice(TOPICS)}, ticket {rank}.{notes}"
    return Ask("/api/v1/classify/text", said, chance.choice(CHOICES))
