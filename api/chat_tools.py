"""OpenAI's `tools`, `tool_choice` and `response_format` as JSON for the providers, or a refusal that names the field."""

from __future__ import annotations

import json
from typing import Any

import rules
from api.schema_size import MOST_PARTS, unfolded_size
from errors import InvalidInput

MAX_TOOLS = 128
MAX_DESCRIPTION_CHARS = 20_000
CHOICES = ("auto", "none", "required")
FORMATS = ("text", "json_object", "json_schema")
# A schema for JSON of any shape.
ANY_JSON = "{}"


def read_tools(value: Any) -> tuple[str, frozenset[str]]:
    """The tools as JSON, and their names; nothing where there are none."""
    if value is None or value == []:
        return "", frozenset()
    tools = rules.a_list(value, "tools", MAX_TOOLS)
    rules.carriable_json(tools, "tools")
    names = [_tool_name(tool, f"tools[{place}]") for place, tool in enumerate(tools)]
    if len(set(names)) < len(names):
        raise InvalidInput("`tools` names one tool twice. Send each once.", field="tools")
    if sum(unfolded_size(tool["function"].get("parameters") or {}) for tool in tools) > MOST_PARTS:
        raise InvalidInput(f"`tools` has more than {MOST_PARTS} parts in all. Send fewer.", field="tools")
    return json.dumps(tools), frozenset(names)


def _tool_name(value: Any, field: str) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind != "function":
        raise InvalidInput(
            f"`{field}` is of type `{rules.short(kind)}`. Only tools of type `function` are taken here.",
            field=field,
        )
    tool = rules.an_object(value, field, ("type", "function"))
    rules.one_of(tool.get("type"), f"{field}.type", ("function",))
    field += ".function"
    function = rules.an_object(tool.get("function"), field, ("name", "description", "parameters", "strict"))
    description = function.get("description")
    if description != "":
        rules.optional_text(description, f"{field}.description", MAX_DESCRIPTION_CHARS)
    rules.switch(function.get("strict"), f"{field}.strict")
    if function.get("parameters") is not None:
        _json_schema(function["parameters"], f"{field}.parameters")
    return rules.plain_word(function.get("name"), f"{field}.name")


def read_choice(value: Any, names: frozenset[str]) -> str:
    """Which tool is to be called, as JSON; nothing for the model's own choice."""
    if value is None or (value in ("auto", "none") and not names):
        return ""
    if not names:
        raise InvalidInput("`tool_choice` needs `tools`. Send both or neither.", field="tool_choice")
    if isinstance(value, str):
        return json.dumps(rules.one_of(value, "tool_choice", CHOICES))
    return json.dumps(_named(value, names))


def _named(value: Any, names: frozenset[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("type") != "function":
        raise InvalidInput(
            f"`tool_choice` must be one of {rules.listed(CHOICES)} or "
            '{"type": "function", "function": {"name": "..."}}.',
            field="tool_choice",
        )
    choice = rules.an_object(value, "tool_choice", ("type", "function"))
    function = rules.an_object(choice.get("function"), "tool_choice.function", ("name",))
    rules.one_of(function.get("name"), "tool_choice.function.name", names)
    return choice


def read_format(value: Any) -> str:
    """The schema of the reply as JSON; nothing for plain text."""
    if value is None:
        return ""
    field = "response_format"
    wanted = rules.an_object(value, field, ("type", "json_schema"))
    kind = rules.one_of(wanted.get("type"), f"{field}.type", FORMATS)
    if kind != "json_schema":
        if wanted.get("json_schema") is not None:
            raise InvalidInput(
                f"`{field}.json_schema` needs `{field}.type` to be `json_schema`.", field=f"{field}.type"
            )
        return ANY_JSON if kind == "json_object" else ""
    return json.dumps(_named_schema(wanted.get("json_schema"), f"{field}.json_schema"))


def _named_schema(value: Any, field: str) -> dict[str, Any]:
    card = rules.an_object(value, field, ("name", "schema", "strict", "description"))
    rules.carriable_json(card, field)
    schema = _json_schema(card.get("schema"), f"{field}.schema")
    description = rules.optional_text(card.get("description"), f"{field}.description", MAX_DESCRIPTION_CHARS)
    if description:  # where every provider's model reads it
        schema = {"description": description} | schema
    named = {"name": rules.plain_word(card.get("name"), f"{field}.name"), "schema": schema}
    return named | ({"strict": True} if rules.switch(card.get("strict"), f"{field}.strict") else {})


def _json_schema(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"`{field}` must be a JSON schema: an object.", field=field)
    if unfolded_size(value) > MOST_PARTS:
        raise InvalidInput(
            f"`{field}` has more than {MOST_PARTS} parts once its `$ref`s are followed. Make it smaller.",
            field=field,
        )
    return value
