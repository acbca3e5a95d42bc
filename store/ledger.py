"""The life of a ledger row: opened before its call, closed with its bill, and committed either time."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy.engine import URL, Engine

from errors import BudgetExceeded, LedgerUnavailable, Unpriced
from store.budgets import Crossing, holds_for, left_nano
from store.db import open_engine
from store.heir import Heir
from store.instances import Instance
from store.intake import Intake
from store.keeper import Keeper
from store.rows import MICRO, Row, closed_row
from store.spool import Spool
from store.tables import OPEN
from store.waiting import WaitingRoom
from store.writes import CLOSES, EXTENDS, NEW, Write
from store.writing import LONG_PATIENCE_SECONDS, Writer

if TYPE_CHECKING:
    from cost_tracker import CostRecord
    from tasks import Ask

# Rows of another instance stay open so much longer than a request may take before they are given up.
GRACE_SECONDS = 60.0
# How long an ask waits for what calls in flight hold of its budget, and how often it looks by itself: what other
# instances give back nobody tells it.
BUSY_SECONDS, BUSY_ROUND_SECONDS = 5.0, 0.25
# How many may wait so in all, and of one budget.
SEATS = (8, 4)
OK, DEGRADED, DOWN = "ok", "degraded", "down"
TAKES_NOTHING = "The ledger's database is away, so nothing was noted. Try again in a few seconds; if it stays, tell your operator."


class Ledger:
    """One row for every ask, committed before its reply. The intake knows where rows go, the keeper looks after them."""

    def __init__(
        self,
        url: URL,
        data_dir: str,
        *,
        lease_seconds: float,
        kept_text: Callable[[str], str | None] = lambda _: None,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
        seats: tuple[int, int] = SEATS,
        on_soft_limit: Callable[[Crossing], None] = lambda _: None,
    ) -> None:
        self._timer, self._kept_text = timer, kept_text
        self._lease_us = round((lease_seconds + GRACE_SECONDS) * MICRO)
        self._engine = open_engine(url)
        self._reader = open_engine(url, reads_only=True)
        self._instance = Instance(data_dir)
        self._spool = Spool(data_dir, self._instance.name)
        self._room = WaitingRoom(*seats)
        writer = Writer(self._engine, on_soft_limit=on_soft_limit)
        second = Writer(self._engine, patience=LONG_PATIENCE_SECONDS, on_soft_limit=on_soft_limit)
        self._heir = Heir(self._instance, self._spool, second, clock)
        self._intake = Intake(self._engine, self._instance, self._spool, writer, self._heir, self._room.tell)
        self._keeper = Keeper(self._intake, self._heir, timer)
        # What else is to be looked after now and then, by others' own means.
        self.chores = self._keeper.chores

    # The two writes of a request.

    def open(
        self,
        ask: Ask,
        reserved_nano: int | None,
        prompt_hash: str,
        at: float,
        asked: tuple[str, str] = ("", ""),
    ) -> Row:
        """Commit an open row, before anything is asked of a provider. Raises LedgerUnavailable and BudgetExceeded.

        `asked` is the provider and the model that the first call goes to: all that is known of a call that is lost.
        """
        at_us = round(at * MICRO)
        holds = holds_for(ask.budgets, at_us)
        row = Row(
            request_id=ask.request_id,
            mark=secrets.randbits(63),
            instance=self._instance.name,
            state=OPEN,
            at_us=at_us,
            expires_us=at_us + self._lease_us,
            route=ask.route[:100],
            task=ask.task.value,
            tenant=ask.tenant,
            address=ask.address[:100],
            key_id=ask.key_id,
            user_id=ask.user_id,
            provider=asked[0],
            requested_model=(ask.model or asked[1])[:100],
            model=asked[1],
            reserved_nano=reserved_nano,
            prompt_hash=prompt_hash,
            holds=" ".join(hold.text for hold in holds if hold.limit_nano is not None),
        )
        self._reserve(row, NEW, ask)
        return row

    def extend(self, row: Row, reserved_nano: int | None, ask: Ask) -> None:
        """Commit that an open row may cost more, before the call that makes it so. Raises as `open` does."""
        self._reserve(replace(row, reserved_nano=reserved_nano), EXTENDS, ask)
        row.reserved_nano = reserved_nano

    def _reserve(self, row: Row, kind: str, ask: Ask) -> None:
        """Commit the row. Where calls in flight hold what a new one needs, it waits a little: most cost less than their
        most. One that holds something already waits for nobody: two of them would wait for each other."""
        if row.reserved_nano is None and any(budget.limit_nano is not None for budget in ask.budgets):
            raise Unpriced()
        try:
            self._reserve_now(row, kind, ask)
        except BudgetExceeded as refusal:
            if kind != NEW or not refusal.busy or not self._reserve_later(row, ask, refusal.scope):
                raise

    def _reserve_now(self, row: Row, kind: str, ask: Ask) -> None:
        self._intake.submit(Write(replace(row), kind, holds_for(ask.budgets, row.at_us)))

    def _reserve_later(self, row: Row, ask: Ask, scope: str) -> bool:
        """Whether it fitted in time. Raises what refuses it for good."""
        until = min(ask.deadline, self._timer() + BUSY_SECONDS)
        with self._room.seat(scope) as news:
            while news is not None and (left := until - self._timer()) > 0:
                news.wait(min(left, BUSY_ROUND_SECONDS))
                news.clear()
                try:
                    self._reserve_now(row, NEW, ask)
                except BudgetExceeded as refusal:
                    if not refusal.busy:
                        raise
                else:
                    return True
        return False

    def close(self, record: CostRecord) -> int:
        """Commit the row of a request that is over; what its tenant has spent by then, in nano-dollars.

        The record learns what is left of the caller's budgets.
        """
        opened = record.opened
        mark = opened.mark if opened else secrets.randbits(63)
        row = closed_row(record, mark, self._instance.name, self._kept_text)
        holds = holds_for(record.budgets, row.at_us) if record.budgets else ()
        overall = self._intake.submit(Write(row, CLOSES if opened else NEW, holds))
        record.left_nano = left_nano(holds)
        return overall

    # How it begins, is looked after, and ends.

    def start(self) -> None:
        """Make the tables and take over what dead processes left; from now on look after all that by itself.

        Raises ConfigError where the database is there and takes nobody in: only an operator can put that right.
        """
        self._intake.start()
        self._keeper.start()

    def tend(self) -> None:
        """One round of care, as the keeper does it by itself."""
        self._keeper.tend()

    def stop(self) -> None:
        self._keeper.stop()
        self._intake.stop()
        self._engine.dispose()
        self._reader.dispose()

    # What others want to know.

    @property
    def reader(self) -> Engine:
        """An engine for reading, once there is something to read. Raises LedgerUnavailable."""
        self._intake.ensure_tables()
        return self._reader

    @property
    def writable(self) -> Engine:
        """An engine for what is written beside the rows, as long as they themselves are. Raises LedgerUnavailable."""
        reader = self.reader
        if self._intake.spooling or self._intake.failing:
            raise LedgerUnavailable(TAKES_NOTHING)
        # Of PostgreSQL the reader's, which connects anew each time: one that has frozen is noticed in time.
        return self._engine if self._engine.dialect.name == "sqlite" else reader

    def check_database(self) -> None:
        """Raises LedgerUnavailable where the database is known to be away, or cannot be made ready."""
        if self._intake.spooling:
            raise LedgerUnavailable()
        self._intake.ensure_tables()

    @property
    def state(self) -> str:
        """ok; degraded while rows go to the spool; down while they can go nowhere."""
        if self._intake.failing:
            return DOWN
        return DEGRADED if self._intake.spooling or self._spool.rejected() else OK

    @property
    def refusal(self) -> str:
        """What an operator has to put right before it is ok; empty where there is nothing to be done but wait."""
        return self._intake.refusal

    def overall_nano(self, tenant: str) -> int:
        """What a tenant has spent since the ledger began, as of this process's last write."""
        return self._intake.totals.get(tenant, 0)

    @property
    def waiting(self) -> int:
        """Asks that wait for what calls in flight hold of their budgets."""
        return self._room.taken

    @property
    def rows(self) -> int:
        return self._intake.rows

    @property
    def commits(self) -> int:
        return self._intake.commits

    @property
    def given_up(self) -> int:
        return self._heir.given_up

    @property
    def keeper_errors(self) -> int:
        return self._keeper.errors
