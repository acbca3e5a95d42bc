"""What names, roles, scopes, limits, budgets and passwords of accounts may be. Each refusal names its field."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import rate_windows
from errors import InvalidInput
from identity import PERIODS, SCOPES_OF, UNBOUND, Budget, Role, Scope
from prices import format_dollars
from rules import MODEL_NAME, text_field

MAX_NAME_CHARS, MAX_MODELS = 100, 50
PASSWORD_CHARS = 12, 256
# A thousand million dollars: what is more fits no column and no purse.
MOST_NANO = 10**18
YEAR_10000_US = 253_402_300_800_000_000
# So short that Decimal holds it whole, and that no exponent overflows: 1e-7 is how a number of JSON may be spelled.
_DOLLARS = re.compile(r"(?=\.?\d)\d{0,10}(\.\d{0,9})?(e[+-]?\d{1,2})?", re.ASCII | re.IGNORECASE)


def checked(fields: Mapping[str, Any], allowed: Iterable[str]) -> dict[str, Any]:
    """The fields as they are stored, each by its own rule; one that is not allowed here is refused."""
    known = set(allowed)
    for name in fields:
        if name not in known:
            raise InvalidInput(
                f"There is no field `{name}` here. Use some of: {', '.join(sorted(known))}.", field=name
            )
    return {name: RULES[name](value) for name, value in fields.items()}


def plain_name(value: Any) -> str:
    name = text_field(value, "name", MAX_NAME_CHARS).strip()
    if not name.isprintable():
        raise InvalidInput("`name` must be one line of printable characters.", field="name")
    return name


def user_name(value: Any) -> str:
    """The name of a user as it is kept and compared: without regard to case and to how letters are composed."""
    name = unicodedata.normalize("NFKC", plain_name(value)).casefold()
    if not name or any(char.isspace() for char in name) or len(name) > MAX_NAME_CHARS:
        raise InvalidInput(
            f"The name of a user must be 1 to {MAX_NAME_CHARS} characters without spaces.", field="name"
        )
    return name


def role(value: Any) -> Role:
    try:
        return Role(value)
    except ValueError:
        raise InvalidInput(f"`role` must be one of: {', '.join(Role)}.", field="role") from None


def scopes(value: Any) -> frozenset[Scope]:
    """A list of scopes; empty stands for all that the role has."""
    try:
        return frozenset(Scope(each) for each in _listed(value, "scopes", len(Scope)))
    except ValueError:
        raise InvalidInput(
            f"`scopes` must be a list of some of: {', '.join(Scope)}.", field="scopes"
        ) from None


def scopes_within(wanted: frozenset[Scope], of: Role) -> frozenset[Scope]:
    """The scopes of a key: those that it names, or all of its role."""
    if not wanted <= SCOPES_OF[of] | UNBOUND:
        fitting = ", ".join(sorted(SCOPES_OF[of]))
        raise InvalidInput(f"`scopes` of the role {of} can be some of: {fitting}.", field="scopes")
    return wanted or SCOPES_OF[of]


def models(value: Any) -> tuple[str, ...]:
    """The models that a key may ask for; empty stands for any."""
    named = _listed(value, "models", MAX_MODELS)
    if not all(MODEL_NAME.fullmatch(each) for each in named):
        raise InvalidInput("`models` must be a list of model ids, as requests name them.", field="models")
    return tuple(dict.fromkeys(named))


def rate_limit(value: Any) -> str:
    """A rate of its own, or empty for the platform's."""
    refusal = InvalidInput(
        "`rate_limit` must be a rate such as `10 per minute`, or empty.", field="rate_limit"
    )
    if not isinstance(value, str) or len(value) > 100:
        raise refusal
    try:
        if value.strip():
            rate_windows.check(value)
    except rate_windows.TooLong:
        raise InvalidInput(
            "`rate_limit` must count within a year at most, such as `10000 per year`. For all time use a budget.",
            field="rate_limit",
        ) from None
    except ValueError:
        raise refusal from None
    return value.strip()


def moment(value: Any) -> int | None:
    """Microseconds since 1970, or None for never."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < YEAR_10000_US:
        raise InvalidInput("`expires_us` must be microseconds since 1970, or null.", field="expires_us")
    return value


def budget(value: Any) -> Budget | None:
    """A budget; whose it is will be filled in. A soft limit of 0 is none."""
    if value is None:
        return None
    if not isinstance(value, Budget) or value.period not in PERIODS:
        raise InvalidInput(f"`period` of a budget must be one of: {', '.join(PERIODS)}.", field="budget")
    wanted: Budget = replace(value, soft_nano=value.soft_nano or None)
    limits = [nano for nano in (wanted.limit_nano, wanted.soft_nano) if nano is not None]
    if not limits or not all(0 <= nano <= MOST_NANO for nano in limits):
        raise InvalidInput(f"A budget needs a limit of 0 to {MOST_NANO // 10**9} $.", field="budget")
    _check_soft(wanted.limit_nano, wanted.soft_nano)
    return wanted


def _check_soft(hard: int | None, soft: int | None) -> None:
    """An equal one is no use either: what does not fit is refused before the last of a budget is spent."""
    if hard is None or soft is None or soft < hard:
        return
    raise InvalidInput(
        f"The soft limit ({format_dollars(soft)} $) must be below the hard one ({format_dollars(hard)} $), else nobody is "
        "warned before calls are refused. Lower it, or take it away with 0.",
        field="budget.soft_usd",
    )


def password(value: Any) -> str:
    """Long enough to be one; empty: they cannot sign in."""
    least, most = PASSWORD_CHARS
    if value != "" and not (isinstance(value, str) and least <= len(value) <= most):
        raise InvalidInput(f"A password must have {least} to {most} characters.", field="password")
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise InvalidInput("A password must be of whole characters.", field="password") from None
    return str(value)


def active(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput("`active` must be true or false.", field="active")
    return value


def nano_dollars(value: Any, field: str) -> int:
    """Dollars as text or whole number, to nano-dollars exactly."""
    is_money = isinstance(value, str | int | Decimal) and not isinstance(value, bool)
    text = str(value).strip() if is_money else ""
    nano = Decimal(text).scaleb(9) if _DOLLARS.fullmatch(text) else Decimal(-1)
    if nano != nano.to_integral_value() or not 0 <= nano <= MOST_NANO:
        raise InvalidInput(
            f'`{field}` must be dollars with at most nine decimals, such as "12.50", up to {MOST_NANO // 10**9}.',
            field=field,
        )
    return int(nano)


def _listed(value: Any, field: str, most: int) -> list[str]:
    if not isinstance(value, list | tuple | set | frozenset) or len(value) > most:
        raise InvalidInput(f"`{field}` must be a list of at most {most} names.", field=field)
    if not all(isinstance(each, str) for each in value):
        raise InvalidInput(f"`{field}` must be a list of strings.", field=field)
    return list(value)


RULES: dict[str, Callable[[Any], Any]] = {
    "name": plain_name,
    "role": role,
    "scopes": scopes,
    "models": models,
    "rate_limit": rate_limit,
    "expires_us": moment,
    "budget": budget,
    "password": password,
    "active": active,
}
