"""The thread that looks after a ledger, once a second."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from store.failures import waits
from store.heir import Heir
from store.intake import Intake
from store.refusals import refusal_of

log = logging.getLogger("llm_platform")

TEND_SECONDS, ROUND_SECONDS = 1.0, 15.0


class Keeper:
    """It outlives every error: nobody else brings the spool home."""

    def __init__(self, intake: Intake, heir: Heir, timer: Callable[[], float]) -> None:
        self._intake, self._heir, self._timer = intake, heir, timer
        self._thread: threading.Thread | None = None
        self._stopped, self._next_round = threading.Event(), 0.0
        # What else is to be looked after now and then, by others' own means.
        self.chores: list[Callable[[], None]] = []
        self.errors = 0

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep, name="ledger", daemon=True)
            self._thread.start()

    def _keep(self) -> None:
        while not self._stopped.wait(TEND_SECONDS):
            self.tend()

    def tend(self) -> None:
        """One round of care: come back from the spool, write what is owed, give up what others left open."""
        try:
            if not self._intake.recover() and self._timer() >= self._next_round:
                self._next_round = self._timer() + ROUND_SECONDS
                self._heir.take_over()
            for chore in self.chores:
                chore()
        except waits() as failure:
            log.info("the ledger still waits: %s", type(failure).__name__)
            self._intake.learn(refusal_of(failure))
        except Exception:
            self.errors += 1
            log.exception("the ledger's keeper failed; it goes on")

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None
