"""What dead processes left behind: their spool is drained, their open rows become unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from store.failures import is_our_mistake
from store.instances import Instance
from store.rows import MICRO
from store.spool import Spool, batches, line_of, put_aside
from store.writes import Write
from store.writing import Writer


class Heir:
    """Takes over from instances that are no more. writer: its own, so that it needs no turn among the requests."""

    def __init__(self, instance: Instance, spool: Spool, writer: Writer, clock: Callable[[], float]) -> None:
        self._instance, self._spool, self.writer, self._clock = instance, spool, writer, clock
        self.given_up = 0

    def take_over(self) -> None:
        """A file is drained, and a row given up, before the dead instance is forgotten: else nobody would look again."""
        dead = self._instance.claim_dead()
        try:
            self.drain(dead)
            late = round(self._clock() * MICRO)
            self.given_up += self.writer.give_up(dead, late, self._instance.name)
            self._instance.bury(dead)
        finally:
            for claim in dead.values():
                claim.close()

    def drain(self, dead: Iterable[str] = ()) -> None:
        """The sealed files of these instances and of one's own, oldest first."""
        for path in self._spool.waiting(dead):
            with suppress(FileNotFoundError):  # another instance may have drained it
                for batch in batches(path):
                    self._drain_batch(batch, path)
            path.unlink(missing_ok=True)

    def _drain_batch(self, batch: list[Write], path: Path) -> None:
        try:
            self.writer.write(batch)
        except Exception as failure:
            if not is_our_mistake(failure):
                raise
            if len(batch) == 1:
                put_aside(line_of(batch[0]), path)
                return
            for write in batch:
                self._drain_batch([write], path)
