"""What callers ask for: prompts nobody else sends, prompts that many send at once, and some past the cache."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from random import Random
from typing import Any

PATHS = {
    "text": "/api/v1/generate/text",
    "code": "/api/v1/generate/code",
    "classify": "/api/v1/classify/text",
}
CATEGORIES = ["positive", "negative", "neutral"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One ask to be sent. The marker stands in the prompt: asks with the same one are the same ask."""

    marker: str
    task: str
    words: int
    bypass: bool = False

    def body(self) -> dict[str, Any]:
        text = f"[{self.marker}]" + " word" * self.words
        return {"text": text, "categories": CATEGORIES} if self.task == "classify" else {"prompt": text}


# Asked for before and after a load: paid for once, and then a hit whose headers show the total.
WARM = Wanted("warm-up", "text", 3)


class Plan:
    """What is asked for next, drawn by the seed: new prompts, prompts that many ask for, and some past the cache."""

    def __init__(
        self, seed: int, *, hot: float = 0.4, bypass: float = 0.05, crowd: int = 12, name: str = ""
    ) -> None:
        self._chance, self._lock, self._name = Random(seed), threading.Lock(), name
        self._hot, self._bypass, self._crowd = hot, bypass, crowd
        self._number = self._hot_number = 0

    def next(self) -> Wanted:
        with self._lock:
            self._number += 1
            return self._drawn()

    def _drawn(self) -> Wanted:
        chance = self._chance
        if chance.random() < self._hot:
            # So many in a row want the same: the first pays, some fly along, the rest are hits.
            self._hot_number += 1
            group = self._hot_number // self._crowd
            return Wanted(f"{self._name}hot-{group}", ("text", "code", "classify")[group % 3], group % 40)
        task = chance.choice(("text", "text", "code", "classify"))
        return Wanted(
            f"{self._name}new-{self._number}", task, chance.randrange(120), chance.random() < self._bypass
        )
