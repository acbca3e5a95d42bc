"""Where rows go: into the database, else to the spool; a bill that finds no place is owed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

from sqlalchemy.engine import Engine

from config import ConfigError
from errors import LedgerUnavailable, PlatformError
from store.db import migrate
from store.failures import database_errors, first_line, is_our_mistake, is_outage, waits, write_errors
from store.group_commit import GroupCommit
from store.heir import Heir
from store.instances import Instance
from store.refusals import refusal_of
from store.rows import place_of
from store.spool import Spool
from store.writes import CLOSES, NEW, WITHDRAWS, Write, overall_of
from store.writing import Writer

log = logging.getLogger("llm_platform")


class Intake:
    """Threads that write at the same moment share one commit. Only PostgreSQL has the spool as a second place.

    freed: told the budgets of which something was given back.
    """

    def __init__(
        self,
        engine: Engine,
        instance: Instance,
        spool: Spool,
        writer: Writer,
        heir: Heir,
        freed: Callable[[Iterable[str]], None],
    ) -> None:
        self._engine, self._instance, self._spool = engine, instance, spool
        self._writer, self._heir, self._freed = writer, heir, freed
        self._group = GroupCommit(self._commit)
        # Held while a batch is written, and by the keeper where nothing may be written meanwhile. It is taken before the
        # locks of instances, and those before the database's.
        self._committing = threading.Lock()
        # Bills of calls that were made but could not be written: tried again with every batch.
        self._owed: list[Write] = []
        self._ready = False
        self.spooling = self.failing = False
        self._refusal = ""
        # What each tenant has spent since the ledger began, as of the last write.
        self.totals: dict[str, int] = {}
        self.commits = self.rows = 0

    def submit(self, write: Write) -> int:
        """On disk when it returns; what its tenant has spent by then. Raises LedgerUnavailable, or why it is refused."""
        self._group.submit(write)
        if write.failure is None:
            return write.overall_nano
        if isinstance(write.failure, PlatformError) or is_our_mistake(write.failure):
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
        if not self.spooling:
            try:
                self._write(batch)
            except database_errors() as failure:
                if is_our_mistake(failure):
                    raise
                self._turn_to_spool(failure)
                self._owed += _withdrawals(batch)
        if self.spooling:
            self._put_by(_without_wishes(batch))

    # Its three places.

    def _write(self, batch: list[Write]) -> None:
        self._pay_owed()
        self.totals |= self._writer.write(sorted(batch, key=lambda write: place_of(write.row)))
        overall_of(batch, self.totals)
        self.failing = False
        self.commits += 1
        self.rows += len(batch)
        self._freed(hold.counter[0] for write in batch if write.kind == CLOSES for hold in write.holds)

    def _put_by(self, batch: list[Write]) -> None:
        self._spool.append([*self._owed, *batch])
        self._owed.clear()
        for write in batch:
            tenant = write.row.tenant
            self.totals[tenant] = write.overall_nano = self.totals.get(tenant, 0) + write.spent_nano
        self.failing = False

    def _fail(self, batch: list[Write], failure: Exception) -> None:
        ours = is_our_mistake(failure)
        if ours or not self.failing:
            log.error("the ledger cannot be written: %s", first_line(failure))
        if not ours:
            self.learn(refusal_of(failure))
        self.failing = self.failing or not ours
        for write in batch:
            write.failure = failure
            if write.kind == CLOSES and not ours:  # its call was made: what it cost must not be lost
                write.row.status = LedgerUnavailable.status
                # One of its own: who pays it forgets the failure, which this one's thread may still have to read.
                self._owed.append(Write(write.row, CLOSES, write.holds))

    def _pay_owed(self) -> None:
        """Write the bills that could not be written before; one that never can be holds up nobody."""
        while self._owed:
            try:
                self.totals |= self._writer.write(self._owed[:1])
            except Exception as failure:
                if not is_our_mistake(failure):
                    raise
                log.exception("a bill cannot be written at all: %s", self._owed[0].row.request_id)
            del self._owed[0]

    # Getting ready, the way to the spool, and the way back.

    def start(self) -> None:
        """Raises ConfigError where the database is there and takes nobody in."""
        with self._committing:
            try:
                self._get_ready(starting=True)
            except write_errors() as failure:
                self._fail([], failure)

    def ensure_tables(self) -> None:
        """Raises LedgerUnavailable."""
        if self._ready:
            return
        with self._committing:
            try:
                self._get_ready()
            except waits() as failure:
                raise LedgerUnavailable() from failure

    def _get_ready(self, starting: bool = False) -> None:
        """Tables, this instance's lock, the running totals: done once, at the first write."""
        if self._ready or self.spooling:
            return
        try:
            self._instance.enter()
            migrate(self._engine)
            self._heir.take_over()
            self.totals = self._writer.totals()
        except database_errors() as failure:
            if starting and (refusal := refusal_of(failure)):
                raise ConfigError(refusal) from None
            self._turn_to_spool(failure)
        else:
            self._ready = True

    def _turn_to_spool(self, failure: Exception) -> None:
        if self._engine.dialect.name == "sqlite" or not is_outage(failure):
            raise failure
        log.warning("the database is away, rows go to the spool: %s", first_line(failure))
        self.learn(refusal_of(failure))
        if self._ready:
            self._spool.keep_totals(self.totals)
        else:
            self.totals = self._spool.kept_totals()
        self.spooling = True

    def recover(self) -> bool:
        """Come back from the spool, or try again what failed; whether there was need. Raises what is still in the way."""
        if self.spooling:
            self._come_back()
        elif self.failing:
            self._try_again()
        else:
            return False
        return True

    def _come_back(self) -> None:
        """Drain the spool while it still takes rows, and the rest of it while nothing can be added."""
        self._heir.writer.close()  # its connection may be one of before
        self._have_tables()
        for _ in range(2):
            with self._committing:
                self._spool.seal()
            self._heir.take_over()
        with self._committing:
            self._spool.seal()
            self._heir.drain()
            self._pay_owed()
            self.totals = self._heir.writer.totals()
            self._ready, self.spooling, self.failing = True, False, False
        log.warning("the database is back, and the spool is drained")

    def _have_tables(self) -> None:
        """Those of this version. A newer one that has come meanwhile changed them so that whoever worked before may go on."""
        try:
            migrate(self._engine)
        except ConfigError:
            if not self._ready:
                raise

    def learn(self, refusal: str) -> None:
        """Why it still waits, if somebody has to do something about it: the log tells each reason once."""
        if refusal and refusal != self.refusal:
            log.error("the ledger waits in vain: %s", refusal)
        self._refusal = refusal

    @property
    def refusal(self) -> str:
        """What an operator has to put right; empty where there is nothing to be done but wait."""
        return self._refusal if self.spooling or self.failing else ""

    def _try_again(self) -> None:
        with self._committing:
            self._get_ready()
            if not self.spooling:
                self._writer.probe()
                self._write([])

    def stop(self) -> None:
        with self._committing:
            with suppress(*write_errors()):
                self._settle_debts()
            self._spool.seal()
            self._writer.close()
            self._heir.writer.close()
            self._instance.leave()

    def _settle_debts(self) -> None:
        """The last chance of bills that are known and not written."""
        if self._owed and self.spooling:
            self._spool.append(self._owed)
        elif self._owed:
            self._pay_owed()


def _without_wishes(batch: list[Write]) -> list[Write]:
    """The rows that may wait for the database; what a budget has to allow may not."""
    for write in batch:
        write.failure = LedgerUnavailable() if write.is_a_wish else None
    return [write for write in batch if write.failure is None]


def _withdrawals(batch: list[Write]) -> list[Write]:
    """Of a commit of unknown outcome: the rows that will be refused, should they be there after all."""
    return [Write(write.row, WITHDRAWS) for write in batch if write.kind == NEW and write.is_a_wish]
