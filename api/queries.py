"""From the query of an address to parameters, or a refusal that names the parameter and what it may be."""

from __future__ import annotations

import re
from collections.abc import Collection

from api.visit import current_request
from errors import InvalidInput

_WHOLE = re.compile(r"[0-9]{1,9}")


def read_query(*known: str) -> dict[str, str]:
    """The parameters, of which each is known and stands there once."""
    given = current_request().args
    for name in given:
        if name not in known:
            takes = f"Known: {_listed(known)}." if known else "This address takes none."
            raise InvalidInput(f"There is no parameter `{_short(name)}`. {takes}", field=_short(name))
        if len(given.getlist(name)) > 1:
            raise InvalidInput(f"The parameter `{name}` stands twice. Send it once.", field=name)
    return given.to_dict()


def whole_number(query: dict[str, str], name: str, default: int, lowest: int, highest: int) -> int:
    raw = query.get(name, str(default))
    if not _WHOLE.fullmatch(raw) or not lowest <= int(raw) <= highest:
        raise InvalidInput(f"`{name}` must be a whole number from {lowest} to {highest}.", field=name)
    return int(raw)


def one_of(query: dict[str, str], name: str, default: str, allowed: Collection[str]) -> str:
    value = query.get(name, default)
    if value not in allowed:
        raise InvalidInput(f"`{name}` must be one of {_listed(allowed)}.", field=name)
    return value


def some_of(query: dict[str, str], name: str, allowed: Collection[str], most: int) -> tuple[str, ...]:
    """Different names of a list with commas, in its order; none where the parameter was left out."""
    if name not in query:
        return ()
    values = query[name].split(",")
    if len(values) > most or len(set(values)) < len(values) or not set(values) <= set(allowed):
        raise InvalidInput(
            f"`{name}` must be one of {_listed(allowed)}, or up to {most} different ones with commas between them.",
            field=name,
        )
    return tuple(values)


def _short(name: str) -> str:
    return name.encode("ascii", "backslashreplace").decode()[:64]


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
