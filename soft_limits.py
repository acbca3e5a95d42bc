"""What happens when a soft limit is reached: an audit line, a metric, an event. Nobody's request waits for it."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable

from prices import format_dollars
from store.budgets import Crossing
from webhook import Events

log = logging.getLogger("llm_platform")

AUDIT_EVENT, EVENT = "BUDGET_SOFT_LIMIT", "budget.soft_limit"


class SoftLimits:
    """Told by the ledger, in whichever request's thread has just committed for all that wait."""

    def __init__(
        self,
        audit: Callable[[str, str, object], None],
        count: Callable[[str], None],
        events: Events,
    ) -> None:
        self._audit, self._count, self._events = audit, count, events
        self.errors = 0

    def reached(self, crossing: Crossing) -> None:
        facts = facts_of(crossing)
        try:
            # The line must not carry the id and tenant of the request whose thread this happens to be.
            contextvars.Context().run(self._audit, AUDIT_EVENT, "MEDIUM", facts)
            self._count(crossing.period)
            self._events.tell(EVENT, facts)
        except Exception:  # a sink: the rows are committed, and their replies must go out
            self.errors += 1
            log.exception("a soft limit could not be told of")


def facts_of(crossing: Crossing) -> dict[str, str | None]:
    """In dollars of nine decimals; `limit` is null where nothing is refused. owner: key, user or tenant."""
    limit = crossing.limit_nano
    # In two fields: logs take what follows on `key:` for a secret.
    kind, _, name = crossing.owner.partition(":")
    return {
        "owner": kind,
        "id": name,
        "period": crossing.period,
        "spent": format_dollars(crossing.spent_nano),
        "soft_limit": format_dollars(crossing.soft_nano),
        "limit": None if limit is None else format_dollars(limit),
    }
