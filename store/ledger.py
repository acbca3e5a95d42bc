"""The ledger's writing side: a row is opened before its call, closed with its bill, and committed either time.

Above 300 lines: writing, spool and keeper share one state under one lock, and it is easier to see whole.
"""

from __future__ import annotations

import functools
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoFreeConnection

from errors import BudgetExceeded, LedgerUnavailable, PlatformError, Unpriced
from store.budgets import Crossing, holds_for, left_nano
from store.db import migrate, open_engine
from store.group_commit import GroupCommit
from store.instances import Instance
from store.rows import MICRO, Row, closed_row, place_of
from store.spool import Spool, batches, line_of, put_aside
from store.tables import OPEN
from store.waiting import WaitingRoom
from store.writes import CLOSES, EXTENDS, NEW, WITHDRAWS, Write, overall_of
from store.writing import LONG_PATIENCE_SECONDS, Writer

if TYPE_CHECKING:
    from cost_tracker import CostRecord
    from tasks import Ask

log = logging.getLogger("llm_platform")

# Rows of another instance stay open so much longer than a request may take before they are given up.
GRACE_SECONDS = 60.0
TEND_SECONDS, ROUND_SECONDS = 1.0, 15.0
# How long an ask waits for what calls in flight hold of its budget, and how often it looks by itself: what other
# instances give back nobody tells it.
BUSY_SECONDS, BUSY_ROUND_SECONDS = 5.0, 0.25
# How many may wait so in all, and of one budget.
SEATS = (8, 4)
OK, DEGRADED, DOWN = "ok", "degraded", "down"
TAKES_NOTHING = "The ledger's database is away, so nothing was noted. Try again in a few seconds; if it stays, tell your operator."


class Ledger:
    """One row for every ask, committed before its reply.

    Threads that write at the same moment share one commit. While PostgreSQL is away rows go to the spool; SQLite has no such second place.
    """

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
        self._clock, self._timer, self._kept_text = clock, timer, kept_text
        self._lease_us = round((lease_seconds + GRACE_SECONDS) * MICRO)
        self._engine = open_engine(url)
        self._reader = open_engine(url, reads_only=True)
        self._remote = url.get_backend_name() != "sqlite"
        # The second writer is the keeper's: it needs no turn among the requests.
        self._writer = Writer(self._engine, on_soft_limit=on_soft_limit)
        self._second = Writer(self._engine, patience=LONG_PATIENCE_SECONDS, on_soft_limit=on_soft_limit)
        self._instance = Instance(data_dir)
        self._spool = Spool(data_dir, self._instance.name)
        self._group = GroupCommit(self._commit)
        # Held while a batch is written, and by the keeper where nothing may be written meanwhile.
        self._committing = threading.Lock()
        self._totals: dict[str, int] = {}
        self._room = WaitingRoom(*seats)
        self._ready = self._spooling = self._failing = False
        # Bills of calls that were made but could not be written: tried again with every batch.
        self._owed: list[Write] = []
        self._keeper: threading.Thread | None = None
        self._stopped, self._next_round = threading.Event(), 0.0
        # What else is to be looked after now and then, by others' own means.
        self.chores: list[Callable[[], None]] = []
        self.given_up = self.commits = self.rows = self.keeper_errors = 0

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
        self._submit(Write(replace(row), kind, holds_for(ask.budgets, row.at_us)))

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
        overall = self._submit(Write(row, CLOSES if opened else NEW, holds))
        record.left_nano = left_nano(holds)
        return overall

    def _submit(self, write: Write) -> int:
        self._group.submit(write)
        if write.failure is None:
            return write.overall_nano
        if isinstance(write.failure, PlatformError):
            raise write.failure
        if is_our_mistake(write.failure):
            raise write.failure
        raise LedgerUnavailable() from write.failure

    def _commit(self, batch: list[Write]) -> None:
        with self._committing:
            self._commit_held(batch)

    def _commit_held(self, batch: list[Write]) -> None:
        try:
            self._store(batch)
        except Exception as failure:  # noqa: BLE001  it is raised again by whoever brought the row
            if is_our_mistake(failure) and len(batch) > 1:
                for write in batch:
                    self._commit_held([write])
            else:
                self._fail(batch, failure)

    def _store(self, batch: list[Write]) -> None:
        self._get_ready()
        if not self._spooling:
            try:
                self._write(batch)
            except database_errors() as failure:
                if is_our_mistake(failure):
                    raise
                self._turn_to_spool(failure)
                self._owed += _withdrawals(batch)
        if self._spooling:
            batch = _without_wishes(batch)
            self._spool.append([*self._owed, *batch])
            self._owed.clear()
            self._count_spooled(batch)
            self._failing = False

    def _write(self, batch: list[Write]) -> None:
        self._pay_owed()
        self._totals |= self._writer.write(sorted(batch, key=lambda write: place_of(write.row)))
        overall_of(batch, self._totals)
        self._failing = False
        self.commits += 1
        self.rows += len(batch)
        self._room.tell(hold.counter[0] for write in batch if write.kind == CLOSES for hold in write.holds)

    def _pay_owed(self) -> None:
        """Write the bills that could not be written before; one that never can be holds up nobody."""
        while self._owed:
            try:
                self._totals |= self._writer.write(self._owed[:1])
            except Exception as failure:
                if not is_our_mistake(failure):
                    raise
                log.exception("a bill cannot be written at all: %s", self._owed[0].row.request_id)
            del self._owed[0]

    def _count_spooled(self, batch: list[Write]) -> None:
        for write in batch:
            tenant = write.row.tenant
            self._totals[tenant] = write.overall_nano = self._totals.get(tenant, 0) + write.spent_nano

    def _turn_to_spool(self, failure: Exception) -> None:
        if not self._remote or not is_outage(failure):
            raise failure
        log.warning("the database is away, rows go to the spool: %s", _first_line(failure))
        if self._ready:
            self._spool.keep_totals(self._totals)
        else:
            self._totals = self._spool.kept_totals()
        self._spooling = True

    def _fail(self, batch: list[Write], failure: Exception) -> None:
        ours = is_our_mistake(failure)
        if ours or not self._failing:
            log.error("the ledger cannot be written: %s", failure)
        self._failing = self._failing or not ours
        for write in batch:
            write.failure = failure
            if write.kind == CLOSES and not ours:  # its call was made: what it cost must not be lost
                write.row.status = LedgerUnavailable.status
                self._owed.append(write)

    # Getting ready, and staying so.

    def start(self) -> None:
        """Make the tables and take over what dead processes left; from now on look after all that by itself."""
        with self._committing:
            try:
                self._get_ready()
            except write_errors() as failure:
                self._fail([], failure)
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._keep, name="ledger", daemon=True)
            self._keeper.start()

    def _get_ready(self) -> None:
        """Tables, this instance's lock, the running totals: done once, at the first write."""
        if self._ready or self._spooling:
            return
        try:
            self._instance.enter()
            migrate(self._engine)
            self._take_over()
            self._totals = self._writer.totals()
        except database_errors() as failure:
            self._turn_to_spool(failure)
        else:
            self._ready = True

    def _keep(self) -> None:
        while not self._stopped.wait(TEND_SECONDS):
            self.tend()

    def tend(self) -> None:
        """One round of care: come back from the spool, write what is owed, give up what others left open."""
        try:
            if self._spooling:
                self._come_back()
            elif self._failing:
                self._try_again()
            elif self._timer() >= self._next_round:
                self._next_round = self._timer() + ROUND_SECONDS
                self._take_over()
            for chore in self.chores:
                chore()
        except write_errors() as failure:
            log.info("the ledger still waits: %s", type(failure).__name__)
        except Exception:  # the keeper must live: nobody else brings the spool home
            self.keeper_errors += 1
            log.exception("the ledger's keeper failed; it goes on")

    def _try_again(self) -> None:
        with self._committing:
            self._get_ready()
            if not self._spooling:
                self._writer.probe()
                self._write([])

    def _come_back(self) -> None:
        """Drain the spool while it still takes rows, and the rest of it while nothing can be added."""
        self._second.close()  # its connection may be one of before
        migrate(self._engine)
        for _ in range(2):
            with self._committing:
                self._spool.seal()
            self._take_over()
        with self._committing:
            self._spool.seal()
            self._drain(())
            self._pay_owed()
            self._totals = self._second.totals()
            self._ready, self._spooling, self._failing = True, False, False
        log.warning("the database is back, and the spool is drained")

    def _take_over(self) -> None:
        """What dead processes left behind: their spool is drained, their open rows become unknown."""
        dead = self._instance.claim_dead()
        try:
            self._drain(dead)
            late = round(self._clock() * MICRO)
            self.given_up += self._second.give_up(dead, late, self._instance.name)
            self._instance.bury(dead)
        finally:
            for claim in dead.values():
                claim.close()

    def _drain(self, dead: Iterable[str]) -> None:
        for path in self._spool.waiting(dead):
            with suppress(FileNotFoundError):  # another instance may have drained it
                for batch in batches(path):
                    self._drain_batch(batch, path)
            path.unlink(missing_ok=True)

    def _drain_batch(self, batch: list[Write], path: Path) -> None:
        try:
            self._second.write(batch)
        except Exception as failure:
            if not is_our_mistake(failure):
                raise
            if len(batch) == 1:
                put_aside(line_of(batch[0]), path)
                return
            for write in batch:
                self._drain_batch([write], path)

    def _settle_debts(self) -> None:
        """The last chance of bills that are known and not written."""
        if self._owed and self._spooling:
            self._spool.append(self._owed)
        elif self._owed:
            self._pay_owed()

    # What others want to know.

    @property
    def reader(self) -> Engine:
        """An engine for reading, once there is something to read. Raises LedgerUnavailable."""
        if not self._ready:
            self._ensure_tables()
        return self._reader

    @property
    def writable(self) -> Engine:
        """An engine for what is written beside the rows, as long as they themselves are. Raises LedgerUnavailable."""
        reader = self.reader
        if self._spooling or self._failing:
            raise LedgerUnavailable(TAKES_NOTHING)
        # Of PostgreSQL the reader's, which connects anew each time: one that has frozen is noticed in time.
        return reader if self._remote else self._engine

    def check_database(self) -> None:
        """Raises LedgerUnavailable where the database is known to be away, or cannot be made ready."""
        if self._spooling:
            raise LedgerUnavailable()
        if not self._ready:
            self._ensure_tables()

    def _ensure_tables(self) -> None:
        with self._committing:
            try:
                self._get_ready()
            except write_errors() as failure:
                raise LedgerUnavailable() from failure

    @property
    def state(self) -> str:
        """ok; degraded while rows go to the spool; down while they can go nowhere."""
        if self._failing:
            return DOWN
        return DEGRADED if self._spooling or self._spool.rejected() else OK

    def overall_nano(self, tenant: str) -> int:
        """What a tenant has spent since the ledger began, as of this process's last write."""
        return self._totals.get(tenant, 0)

    @property
    def waiting(self) -> int:
        """Asks that wait for what calls in flight hold of their budgets."""
        return self._room.taken

    def stop(self) -> None:
        self._stopped.set()
        if self._keeper is not None:
            self._keeper.join(timeout=5)
            self._keeper = None
        with self._committing:
            with suppress(*write_errors()):
                self._settle_debts()
            self._spool.seal()
            self._writer.close()
            self._second.close()
            self._instance.leave()
        self._engine.dispose()
        self._reader.dispose()


@functools.cache
def database_errors() -> tuple[type[Exception], ...]:
    """What SQLAlchemy raises, and the drivers below it."""
    import psycopg

    return SQLAlchemyError, sqlite3.Error, psycopg.Error


def _without_wishes(batch: list[Write]) -> list[Write]:
    """The rows that may wait for the database; what a budget has to allow may not."""
    for write in batch:
        write.failure = LedgerUnavailable() if write.is_a_wish else None
    return [write for write in batch if write.failure is None]


def _withdrawals(batch: list[Write]) -> list[Write]:
    """Of a commit of unknown outcome: the rows that will be refused, should they be there after all."""
    return [Write(write.row, WITHDRAWS) for write in batch if write.kind == NEW and write.is_a_wish]


def write_errors() -> tuple[type[Exception], ...]:
    """Everything that can keep a row from its disk."""
    return (*database_errors(), OSError)


def is_outage(failure: BaseException) -> bool:
    """Whether the database is away, as against there and not as it should be: then waiting would be for ever."""
    import psycopg

    cause = getattr(failure, "orig", None) or failure
    away = (
        psycopg.OperationalError,
        psycopg.InterfaceError,
        psycopg.InternalError,
        NoFreeConnection,
        OSError,
    )
    return isinstance(cause, away)


def _first_line(failure: Exception) -> str:
    return str(getattr(failure, "orig", None) or failure).partition("\n")[0]


def is_our_mistake(failure: BaseException) -> bool:
    """Whether the row itself cannot be stored, wherever; then nothing is gained by trying again."""
    import psycopg

    about_rows = (sqlite3.DataError, sqlite3.IntegrityError, psycopg.DataError, psycopg.IntegrityError)
    return isinstance(failure, about_rows) or not isinstance(failure, write_errors())
