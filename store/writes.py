"""One row on its way into the ledger, and what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from store.budgets import Hold
from store.rows import Row, is_open

# The last: a row that was refused, and that a commit of unknown outcome may have written all the same.
NEW, EXTENDS, CLOSES, WITHDRAWS = "new", "extends", "closes", "withdraws"


class Write:
    """New (open, or closed at once), reserving more, or closing.

    holds: the counters to look at; while it is open it reserves in those that have a limit.
    """

    __slots__ = ("done", "failure", "holds", "kind", "latch", "overall_nano", "row")

    def __init__(self, row: Row, kind: str = NEW, holds: tuple[Hold, ...] = ()) -> None:
        self.row, self.kind, self.holds = row, kind, holds
        self.latch = threading.Lock()
        self.latch.acquire()
        self.done = False
        self.failure: BaseException | None = None
        self.overall_nano = 0

    @property
    def spent_nano(self) -> int:
        """What it adds to the running total of its tenant."""
        return 0 if is_open(self.row) else self.row.cost_nano or 0

    @property
    def is_a_wish(self) -> bool:
        """Whether budgets have to allow it."""
        return is_open(self.row) and bool(self.row.holds)


def overall_of(writes: Sequence[Write], after: Mapping[str, int]) -> None:
    """Each write's own running total, as if the batch had been written one after the other."""
    left = dict(after)
    for write in reversed(writes):
        tenant = write.row.tenant
        write.overall_nano = left.get(tenant, 0)
        if tenant in left:
            left[tenant] -= write.spent_nano
