"""How large a JSON schema becomes where its references are written out, which some clients of providers do."""

from __future__ import annotations

from typing import Any

# Written out, some kilobytes of references that double can fill any memory.
MOST_PARTS = 5000


def unfolded_size(schema: dict[str, Any]) -> int:
    """Objects and lists in it, with everything that a `$ref` stands for counted at each place; a loop counts once."""
    sizes: dict[str, int] = {}

    def size(part: Any) -> int:
        if isinstance(part, dict):
            reference = part.get("$ref")
            named = size_of(reference) if isinstance(reference, str) else 0
            return 1 + named + sum(map(size, part.values()))
        return 1 + sum(map(size, part)) if isinstance(part, list) else 0

    def size_of(reference: str) -> int:
        if reference not in sizes:
            sizes[reference] = 0  # while it is looked at, it may lead back to itself
            sizes[reference] = size(_target(schema, reference))
        return sizes[reference]

    try:
        return size({name: part for name, part in schema.items() if name not in ("$defs", "definitions")})
    except RecursionError:  # a chain of thousands of references
        return MOST_PARTS + 1


def _target(schema: dict[str, Any], reference: str) -> Any:
    """What a reference within the schema names; nothing where it names nothing."""
    part: Any = schema
    for name in reference.removeprefix("#").strip("/").split("/"):
        part = part.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(part, dict) else None
    return part
