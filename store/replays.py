"""Replies kept under the Idempotency-Key of their callers: claimed before the road is walked, kept before they go out."""

from __future__ import annotations

import functools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from errors import KeyReused, LedgerUnavailable, PlatformError
from security.sealing import Displaced, Sealing
from store.account_tables import replays
from store.group_commit import GroupCommit
from store.rows import MICRO

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from store.patient import Patient

log = logging.getLogger("llm_platform")

# A claim holds so much longer than its request may take; then the process that made it is taken for dead.
GRACE_SECONDS = 60.0
HOUR_US = 3600 * MICRO
PRUNE_US, PRUNED_AT_ONCE = 60 * MICRO, 1000
# Replies that wait in memory for a database that went away while they were made.
MOST_OWED = 1000

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request as its caller may repeat it: digests of who, where and under which key, and of its body."""

    name: str
    caller: str
    body_digest: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to serve a request; its word is ours alone."""

    name: str
    word: str


@dataclass(frozen=True, slots=True)
class AtWork:
    """Somebody else serves it, or did until they died; seconds until there is a reply, or the claim is over."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Kept:
    """The reply that was given. request_id: of the request that it was made for."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    request_id: str


class _Work:
    """Something to be done in the next transaction, and what came of it."""

    __slots__ = ("done", "failure", "latch", "name", "outcome", "run")

    def __init__(self, name: str, run: Callable[[Connection], Any]) -> None:
        self.name, self.run = name, run
        self.latch = threading.Lock()
        self.latch.acquire()
        self.done = False
        self.failure: BaseException | None = None
        self.outcome: Any = None


class Replays:
    """What is kept is seen by every process on the same database. Requests of the same moment share a commit."""

    def __init__(
        self, database: Patient, sealing: Sealing, *, hours: int = 24, clock: Callable[[], float] = time.time
    ) -> None:
        self._database, self._sealing = database, sealing
        self._kept_us, self._clock = hours * HOUR_US, clock
        self._group: GroupCommit[_Work] = GroupCommit(self._commit)
        self._owed: list[_Work] = []
        self._next_prune_us = 0
        self.repeated = 0

    def claim(self, wanted: Wanted, request_id: str, seconds: float) -> Claim | AtWork | Kept:
        """The right to serve a request that takes at most these seconds, or what came of it before.

        Raises KeyReused, LedgerUnavailable, CannotOpen.
        """
        claim = Claim(wanted.name, secrets.token_hex(16))
        row = self._claimed(wanted, claim, request_id, seconds)
        work = _Work(wanted.name, functools.partial(self._take, wanted, claim, row))
        try:
            found = self._done(work)
        except LedgerUnavailable:
            self._owe(
                self._given_up(claim)
            )  # it may have been committed: then it would bar the way for nothing
            raise
        return self._opened(found) if isinstance(found, dict) else found

    def keep(self, claim: Claim, status: int, headers: Headers, body: bytes) -> None:
        """The reply, on disk when this returns; where the database is away it is as soon as that is back."""
        # The name is sealed with it: a reply that somebody moved to another caller's row would else be given to them.
        head = orjson.dumps([claim.name, headers], option=orjson.OPT_APPEND_NEWLINE)
        kept = {
            "status": status,
            "reply": self._sealing.seal(head + body),
            "expires_us": self._now() + self._kept_us,
        }
        self._do_or_owe(_work_on(claim, update(replays).values(kept)))

    def release(self, claim: Claim) -> None:
        """Nothing was spent: whoever asks again is served anew."""
        self._do_or_owe(self._given_up(claim))

    def at_work(self, wanted: Wanted) -> AtWork | None:
        """Whoever serves it still. None: to claim it is worth while, since there is a reply, or no claim any more.

        Raises LedgerUnavailable.
        """
        query = select(replays.c.status, replays.c.claimed_until_us).where(replays.c.name == wanted.name)
        with self._database.look() as connection:
            found = connection.execute(query).one_or_none()
        if found is None or found.status is not None:
            return None
        return _at_work(found.claimed_until_us - self._now())

    def tend(self) -> None:
        """Write what is owed, and forget what was kept for long enough."""
        owed, self._owed = self._owed, []
        for work in owed:
            self._do_or_owe(work)
        if not self._owed and self._now() >= self._next_prune_us:
            self._next_prune_us = self._now() + PRUNE_US
            self._prune()

    @property
    def owed(self) -> int:
        return len(self._owed)

    # One transaction.

    def _done(self, work: _Work) -> Any:
        self._group.submit(work)
        if work.failure is not None:
            raise work.failure
        return work.outcome

    def _commit(self, batch: list[_Work]) -> None:
        """In one order everywhere, so that two instances cannot wait for each other in a circle."""
        try:
            with self._database.change() as connection:
                for work in sorted(batch, key=lambda each: each.name):
                    _run(work, connection)
        except LedgerUnavailable as failure:
            for work in batch:
                work.failure = failure

    def _take(self, wanted: Wanted, claim: Claim, row: dict[str, Any], connection: Connection) -> Any:
        """The claim, AtWork, or the whole row of a reply. Raises KeyReused."""
        dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
        new = dialect.insert(replays).values(row).on_conflict_do_nothing().returning(replays.c.name)
        here = replays.c.name == wanted.name
        known = None
        while known is None:  # between the two statements another instance may have released it
            if connection.execute(new).first() is not None:
                return claim
            known = connection.execute(select(replays).where(here).with_for_update()).mappings().one_or_none()
        found = self._found(wanted, dict(known))
        if found is None:
            connection.execute(update(replays).where(here).values(row | {"status": None, "reply": None}))
        return found or claim

    def _found(self, wanted: Wanted, row: dict[str, Any]) -> AtWork | dict[str, Any] | None:
        """What stands in the way of a claim, if anything does."""
        now = self._now()
        if row["expires_us"] <= now:
            return None
        if row["body_digest"] != wanted.body_digest:
            raise KeyReused(field="Idempotency-Key")
        if row["status"] is not None:
            return row
        return _at_work(row["claimed_until_us"] - now)

    def _claimed(self, wanted: Wanted, claim: Claim, request_id: str, seconds: float) -> dict[str, Any]:
        now = self._now()
        return {
            "name": wanted.name,
            "caller": wanted.caller,
            "body_digest": wanted.body_digest,
            "request_id": request_id,
            "claim": claim.word,
            "claimed_until_us": now + round((seconds + GRACE_SECONDS) * MICRO),
            "expires_us": now + self._kept_us,
        }

    def _opened(self, row: dict[str, Any]) -> Kept:
        where = f"The reply in replays {row['name']}"
        reply = self._sealing.open(row["reply"] or b"", where)
        head, _, body = reply.partition(b"\n")
        headers = _headers_of(head, row["name"])
        if headers is None:
            raise Displaced(where)
        self.repeated += 1
        return Kept(row["status"], headers, body, row["request_id"])

    # What may have to wait.

    def _given_up(self, claim: Claim) -> _Work:
        return _work_on(claim, delete(replays).where(replays.c.status.is_(None)))

    def _do_or_owe(self, work: _Work) -> None:
        try:
            self._done(work)
        except LedgerUnavailable:
            self._owe(work)

    def _owe(self, work: _Work) -> None:
        if len(self._owed) < MOST_OWED:
            self._owed.append(_Work(work.name, work.run))
        else:
            log.error("a reply is not kept under its Idempotency-Key: too many wait for the database")

    def _prune(self) -> None:
        old = select(replays.c.name).where(replays.c.expires_us <= self._now()).limit(PRUNED_AT_ONCE)
        try:
            with self._database.change() as connection:
                connection.execute(delete(replays).where(replays.c.name.in_(old)))
        except LedgerUnavailable:
            log.info("old replies are forgotten later: the database is away")

    def _now(self) -> int:
        return round(self._clock() * MICRO)


def _work_on(claim: Claim, statement: Any) -> _Work:
    """Changes a claim as long as it is still ours."""
    ours = statement.where(replays.c.name == claim.name, replays.c.claim == claim.word)
    return _Work(claim.name, lambda connection: connection.execute(ours))


def _headers_of(head: bytes, name: str) -> tuple[tuple[str, str], ...] | None:
    """The headers of a reply; None where it is not the one of that name."""
    try:
        named, headers = orjson.loads(head)
        return tuple((header, value) for header, value in headers) if named == name else None
    except (ValueError, TypeError):
        return None


def _run(work: _Work, connection: Connection) -> None:
    try:
        work.outcome = work.run(connection)
    except PlatformError as refusal:
        work.failure = refusal


def _at_work(left_us: int) -> AtWork | None:
    """Until the first request must have had its reply; where it has not, until its claim is over."""
    seconds = left_us / MICRO
    if seconds <= 0:
        return None
    return AtWork(seconds - GRACE_SECONDS if seconds > GRACE_SECONDS else seconds)
