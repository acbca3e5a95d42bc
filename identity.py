"""Who is calling, what they may do, and what they may spend."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

DAY, MONTH, TOTAL = PERIODS = ("day", "month", "total")
ANONYMOUS_TENANT = "anonymous"
# How the ids of users begin whom another issuer vouches for: they are no rows of ours.
OUTSIDE = "oidc-"


class Role(StrEnum):
    ADMIN = "admin"
    DEVELOPER = "developer"
    VIEWER = "viewer"


class Scope(StrEnum):
    """tasks: ask for answers. reports: see usage and cost. keys: manage one's own keys. admin: everybody's, users and
    exports besides. All of it within one's own organisation. metrics: of the whole process, whoever calls."""

    TASKS = "tasks"
    REPORTS = "reports"
    KEYS = "keys"
    ADMIN = "admin"
    METRICS = "metrics"


# No role has these: whoever runs commands on the machine gives them, to keys of no user.
UNBOUND = frozenset({Scope.METRICS})
SCOPES_OF = {
    Role.ADMIN: frozenset(Scope) - UNBOUND,
    Role.DEVELOPER: frozenset({Scope.TASKS, Scope.REPORTS, Scope.KEYS}),
    Role.VIEWER: frozenset({Scope.REPORTS}),
}


@dataclass(frozen=True, slots=True)
class Budget:
    """What `owner` (`key:<id>`, `user:<id>` or `tenant:<id>`) may spend in each day, each month, or in total.

    limit_nano refuses, soft_nano only warns; either may be None.
    """

    owner: str
    period: str
    limit_nano: int | None
    soft_nano: int | None = None

    @property
    def scope(self) -> str:
        """The name of its counter."""
        return f"{self.owner}:{self.period}"


def period_start(period: str, at_us: int) -> int:
    """The period that holds a moment: days since 1970, a month as 202611, and 0 for all time; in UTC."""
    if period == TOTAL:
        return 0
    if period == DAY:
        return at_us // 86_400_000_000
    at = datetime.fromtimestamp(at_us // 1_000_000, UTC)
    return at.year * 100 + at.month


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller. models: the only ones allowed, any if empty. rate_limit: its own in place of the platform's, if any."""

    tenant: str
    scopes: frozenset[Scope]
    user_id: str = ""
    key_id: str = ""
    role: Role | None = None
    models: tuple[str, ...] = ()
    rate_limit: str = ""
    budgets: tuple[Budget, ...] = ()

    @property
    def is_anonymous(self) -> bool:
        return not (self.user_id or self.key_id)

    @property
    def name(self) -> str:
        """As logs and audit lines know it."""
        return (
            f"key:{self.key_id}"
            if self.key_id
            else f"user:{self.user_id}"
            if self.user_id
            else ANONYMOUS_TENANT
        )


# Callers without a key where AUTH=open: they ask and read, and manage nothing.
ANONYMOUS = Identity(ANONYMOUS_TENANT, frozenset({Scope.TASKS, Scope.REPORTS}))

# Whoever runs commands on the machine itself: of no organisation, and above all of them.
OPERATOR = Identity("", frozenset(Scope), user_id="operator", role=Role.ADMIN)
