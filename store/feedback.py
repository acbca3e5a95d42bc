"""What callers say of a classification afterwards, and how often it was right.

Names of categories are not kept with the ledger's rows: a row has digests of those that it could choose from and
notes which it chose. That is enough to judge a name that somebody sends.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import case, delete, func, insert, select

from errors import InvalidInput, UnknownRequest
from store.reading import connected
from store.tables import SETTLED, feedback, requests
from tasks import Ask, Task

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

ONE, SEVERAL = "one", "several"
CHOSEN = "*"
# The category under which an answer is judged as a whole; no real one is empty.
WHOLE = ""
MOST_TOLD = 100


@dataclass(frozen=True, slots=True)
class Score:
    """How often there was feedback, and how often the answer was right."""

    feedback: int = 0
    correct: int = 0


def classified(ask: Ask, text: str) -> str | None:
    """What a row keeps of a classification: one or several, then a digest of each category, starred if chosen."""
    if ask.task is not Task.CLASSIFY:
        return None
    chosen = json.loads(text) if ask.multi_label else [text]
    marks = ((CHOSEN if name in chosen else "") + _digest(name) for name in ask.categories)
    return " ".join((SEVERAL if ask.multi_label else ONE, *marks))


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def judge(kept: str, said: str | tuple[str, ...]) -> dict[str, bool]:
    """Each category that is said to be right: whether it was chosen. WHOLE: whether the answer is just these."""
    kind, *marks = kept.split()
    if kind == ONE and not isinstance(said, str):
        raise _refusal("must be one name: that request asked for one category")
    names = (said,) if isinstance(said, str) else said
    chosen = {mark.removeprefix(CHOSEN) for mark in marks if mark.startswith(CHOSEN)}
    digests = {name: _digest(name) for name in names}
    if not set(digests.values()) <= {mark.removeprefix(CHOSEN) for mark in marks}:
        raise _refusal("must be of the categories that the request was sent with, letter by letter")
    judged = {name: digest in chosen for name, digest in digests.items()}
    return {WHOLE: set(digests.values()) == chosen, **judged}


def _refusal(what: str) -> InvalidInput:
    return InvalidInput(f"`correct_category` {what}.", field="correct_category")


def keep(engine: Engine, tenant: str, request_id: str, said: str | tuple[str, ...], at_us: int) -> bool:
    """Keep feedback in place of any earlier one; whether the answer was right. Raises a PlatformError."""
    with connected(engine) as connection, connection.begin():
        judged = judge(_kept(connection, tenant, request_id), said)
        said_before = (feedback.c.request_id == request_id) & (feedback.c.tenant == tenant)
        connection.execute(delete(feedback).where(said_before))
        facts = {"request_id": request_id, "tenant": tenant, "at_us": at_us}
        rows = [{**facts, "category": name, "correct": right} for name, right in judged.items()]
        connection.execute(insert(feedback), rows)
    return judged[WHOLE]


def _kept(connection: Connection, tenant: str, request_id: str) -> str:
    """What the row has kept. It stays locked, so that of two verdicts at once one replaces the other."""
    columns = requests.c.task, requests.c.classified
    query = select(*columns).where(
        requests.c.request_id == request_id, requests.c.tenant == tenant, requests.c.state == SETTLED
    )
    row = connection.execute(query.with_for_update()).one_or_none()
    if row is None:
        raise UnknownRequest(field="request_id")
    if row.classified is None:
        what = "got no category as its answer" if row.task == Task.CLASSIFY else "was no classification"
        raise InvalidInput(f"The request of this `request_id` {what}. Name another one.", field="request_id")
    return str(row.classified)


def scores(engine: Engine, tenant: str | None = None, most: int = MOST_TOLD) -> dict[str, Score]:
    """By category, those with most feedback first; WHOLE, where there is any, is all of it. None: every tenant's."""
    count, right = func.count(), func.sum(case((feedback.c.correct, 1), else_=0))
    query = select(feedback.c.category, count, right).group_by(feedback.c.category)
    if tenant is not None:
        query = query.where(feedback.c.tenant == tenant)
    with connected(engine) as connection:
        rows = connection.execute(query.order_by(count.desc(), feedback.c.category).limit(1 + most)).all()
    return {name: Score(told, int(correct)) for name, told, correct in rows}
