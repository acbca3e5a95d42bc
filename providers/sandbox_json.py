"""JSON that fits a schema, for the sandbox: the smallest that comes to mind, or a refusal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from errors import InvalidInput

# A few lines of schema can ask for more values than there is memory.
MOST_VALUES, MOST_NESTED, MOST_CHARS = 1000, 50, 1000
# What a value below heeds, and what only describes it. Anything else might forbid that value.
HEEDED = frozenset(
    "type properties required items minItems enum const anyOf oneOf $ref $defs definitions".split()
)
HEEDED |= frozenset("minimum maximum minLength additionalProperties".split())
DESCRIBES = frozenset("title description default examples $schema $id $comment".split())
PLAIN: dict[Any, Any] = {"boolean": False, "null": None}


def fitting(schema: Any) -> Any:
    """A value that fits. Raises InvalidInput for a schema that is not simple."""
    try:
        return _Maker(schema).value(schema)
    except (TypeError, AttributeError, LookupError):  # a schema that is none
        raise _refusal() from None


class _Maker:
    """Makes values for one schema, and no more of them than are allowed."""

    def __init__(self, root: Any) -> None:
        self._root, self._made = root, 0

    def value(self, schema: Any, depth: int = 0) -> Any:
        self._made += 1
        unknown = set() if schema is True else set(schema) - HEEDED - DESCRIBES
        if unknown or depth > MOST_NESTED or self._made > MOST_VALUES:
            raise _refusal()
        if schema is True or "const" in schema:
            return {} if schema is True else schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        following = self._following(schema)
        return self._of_type(schema, depth) if following is None else self.value(following, depth + 1)

    def _following(self, schema: Mapping[str, Any]) -> Any:
        """The schema that this one leads to, if it does not speak for itself."""
        for branches in ("anyOf", "oneOf"):
            if branches in schema:
                return schema[branches][0]
        place: Any = self._root if "$ref" in schema else None
        for step in schema.get("$ref", "").removeprefix("#").strip("/").split("/"):
            place = place[step] if step else place
        return place

    def _of_type(self, schema: Mapping[str, Any], depth: int) -> Any:
        told = schema.get("type", "object")
        kind = told[0] if isinstance(told, list) else told
        if kind == "object":
            parts = {
                name: schema.get("properties", {}).get(name, True) for name in schema.get("required", ())
            }
            return {name: self.value(part, depth + 1) for name, part in parts.items()}
        if kind == "array":
            return [
                self.value(schema.get("items", True), depth + 1) for _ in range(schema.get("minItems", 0))
            ]
        if kind == "string":
            return "sandbox".ljust(min(schema.get("minLength", 0), MOST_CHARS), ".")
        if kind in ("integer", "number"):
            number = max(0, schema.get("minimum", 0))
            number = min(number, schema.get("maximum", number))
            return math.ceil(number) if kind == "integer" else number
        return PLAIN[kind]


def _refusal() -> InvalidInput:
    return InvalidInput(
        "The sandbox makes up JSON for simple schemas only. Simplify `response_format`, or set a provider key.",
        field="response_format",
    )
