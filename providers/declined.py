"""What a service does not take with a model, as it said itself: left out for a while, then tried again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from errors import OptionDeclined

log = logging.getLogger(__name__)

ASKED_AGAIN_SECONDS = 300.0
# Callers may name models, so what is remembered of them needs a bound.
MOST_REMEMBERED = 100


class Declined:
    """Options that one service refused, by model. Servers that only speak OpenAI's protocol lack some of it."""

    def __init__(self, provider: str, timer: Callable[[], float]) -> None:
        self._provider, self._timer = provider, timer
        self._until: dict[tuple[str, str], float] = {}
        self._writing = threading.Lock()

    def has(self, model: str, option: str) -> bool:
        return self._until.get((model, option), 0.0) > self._timer()

    def note(self, model: str, option: str) -> OptionDeclined:
        """Remember it. The fault says that the same ask may be put again at once."""
        log.warning("%s takes no %s with %s; asking without it", self._provider, option, model)
        with self._writing:
            self._until.pop((model, option), None)
            self._until[model, option] = self._timer() + ASKED_AGAIN_SECONDS
            if len(self._until) > MOST_REMEMBERED:
                del self._until[next(iter(self._until))]
        return OptionDeclined(transient=True, delay=0, detail=f"{self._provider} takes no {option}")
