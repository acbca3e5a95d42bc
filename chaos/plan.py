"""What callers ask for: prompts nobody else sends, prompts that many send at once, and some past the cache."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    # Whoever names a model has one provider; nobody else may answer.
    model: str = ""

    def body(self) -> dict[str, Any]:
        text = f"[{self.marker}]" + " word" * self.words
        named = {"model": self.model} if self.model else {}
        if self.task == "classify":
            return {"text": text, "categories": CATEGORIES, **named}
        return {"prompt": text, **named}


# Asked for before and after a load: paid for once, and then a hit whose headers show the total.
WARM = Wanted("warm-up", "text", 3)
# Half of the asks leave it to the chain, the others name a model of one provider.
MODELS = ("", "gemini-3.1-flash-lite", "", "gpt-5.4-nano", "", "claude-haiku-5-5")
# Each provider's library is loaded once these are answered: what a caller waits for is no longer a start.
FIRST = (WARM, *(replace(WARM, marker=f"warm-{model}", model=model) for model in MODELS if model))


class Plan:
    """What is asked for next, drawn by the seed: new prompts, prompts that many ask for, and some past the cache.

    models: one of them is named in each ask; the empty one leaves that to the platform.
    """

    def __init__(
        self,
        seed: int,
        *,
        hot: float = 0.4,
        bypass: float = 0.05,
        crowd: int = 12,
        name: str = "",
        models: Sequence[str] = ("",),
    ) -> None:
        self._chance, self._lock, self._name = Random(seed), threading.Lock(), name
        self._hot, self._bypass, self._crowd, self._models = hot, bypass, crowd, models
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
            task = ("text", "code", "classify")[group % 3]
            model = self._models[group // 3 % len(self._models)]
            return Wanted(f"{self._name}hot-{group}", task, group % 40, model=model)
        task = chance.choice(("text", "text", "code", "classify"))
        words, bypass = chance.randrange(120), chance.random() < self._bypass
        model = self._models[self._number % len(self._models)]
        return Wanted(f"{self._name}new-{self._number}", task, words, bypass, model)
