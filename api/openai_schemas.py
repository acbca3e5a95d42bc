"""What Swagger tells of version 2; what is checked stands in chat_asks and its brothers."""

from __future__ import annotations

from typing import Any

from api.chat_asks import LEFT_OUT, MAX_STOPS
from api.chat_tools import CHOICES, FORMATS, MAX_TOOLS
from api.chat_turns import FIELDS, MAX_CALLS, MAX_MESSAGES, MAX_NAME_CHARS
from api.embeddings import FORMATS as VECTOR_FORMATS
from api.embeddings import MAX_INPUTS
from rules import MODEL_NAME, PLAIN_WORD

Schema = dict[str, Any]


def closed(required: str = "", /, **properties: Schema) -> Schema:
    """An object without other fields."""
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": required.split()} if required else {})


def an_object(**properties: Schema) -> Schema:
    """An object of ours, which may gain fields."""
    return {"type": "object", "properties": properties}


def a_list(items: Schema, most: int, **more: Any) -> Schema:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most} | more


def told(description: str, **more: Any) -> Schema:
    return {"description": description} | more


TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer"}
NULLABLE: Schema = {"x-nullable": True}
FLAG: Schema = {"type": "boolean", **NULLABLE}
WORD: Schema = {"type": "string", "pattern": f"^(?:{PLAIN_WORD.pattern})$"}
ANY_OBJECT: Schema = {"type": "object"}

MODEL_FIELD = told(
    "a model id, alone or after its provider (`gemini/...`); `default` leaves the choice to the platform, which then "
    "can go on to the next provider where one fails",
    type="string",
    pattern=f"^(?:{MODEL_NAME.pattern})$",
    example="default",
    **NULLABLE,
)
CALL = closed(
    "id type function",
    id={"type": "string", "minLength": 1},
    type={"type": "string", "enum": ["function"]},
    index=COUNT,
    function=closed("name arguments", name=WORD, arguments=told("JSON in a string", type="string")),
)
MESSAGE = closed(
    "role content",
    role={"type": "string", "enum": ["user", *sorted(FIELDS.keys() - {"user"})]},
    content=told("or a list of parts of the form {type: text, text: ...}", minLength=1, **TEXT, **NULLABLE),
    name=told("read, and not passed on", minLength=1, maxLength=MAX_NAME_CHARS, **TEXT, **NULLABLE),
    tool_calls=told("of an assistant: what it asked for", **a_list(CALL, MAX_CALLS), **NULLABLE),
    tool_call_id=told("of a tool: which of the calls it answers", **TEXT),
)
TOOL = closed(
    "type function",
    type={"type": "string", "enum": ["function"]},
    function=closed(
        "name",
        name=WORD,
        description={"type": "string", **NULLABLE},
        parameters=ANY_OBJECT | NULLABLE,
        strict=FLAG,
    ),
)
FORMAT = (
    closed(
        "type",
        type={"type": "string", "enum": list(FORMATS)},
        json_schema=closed(
            "name schema",
            name=WORD,
            schema=ANY_OBJECT,
            strict=FLAG,
            description={"type": "string", **NULLABLE},
        )
        | NULLABLE,
    )
    | NULLABLE
)
CHAT = closed(
    "messages",
    model=MODEL_FIELD,
    messages=a_list(MESSAGE, MAX_MESSAGES),
    temperature={"type": "number", "minimum": 0, "maximum": 2, **NULLABLE},
    max_tokens={"type": "integer", "minimum": 1, **NULLABLE},
    max_completion_tokens=told("counts where both are sent", type="integer", minimum=1, **NULLABLE),
    stop=told(f"a string, or up to {MAX_STOPS} of them"),
    n=told("one answer is made", type="integer", enum=[1], **NULLABLE),
    stream=told("true: chunks as server-sent events, the bill in the last one", **FLAG),
    stream_options=closed(include_usage=FLAG, include_obfuscation=FLAG) | NULLABLE,
    response_format=FORMAT,
    tools={"type": "array", "items": TOOL, "maxItems": MAX_TOOLS, **NULLABLE},
    tool_choice=told(f"one of {', '.join(CHOICES)}, or an object that names one of the tools"),
    **{name: told("known, and left out: X-Params-Ignored says so") for name in sorted(LEFT_OUT)},
) | {"example": {"model": "default", "messages": [{"role": "user", "content": "Say hello in one sentence."}]}}
COST = an_object(
    input=told("US dollars, nine decimals, as text", type="string"),
    output=TEXT,
    total=TEXT,
    overall=TEXT,
    saved=TEXT,
    cached={"type": "boolean"},
)
USAGE = an_object(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT, cost=COST)
ANSWER = an_object(role=TEXT, content=TEXT, refusal=TEXT, tool_calls={"type": "array", "items": CALL})
CHOICE = an_object(index=COUNT, message=ANSWER, finish_reason=TEXT)
COMPLETION = an_object(
    id=TEXT,
    object=TEXT,
    created=COUNT,
    model=TEXT,
    choices={"type": "array", "items": CHOICE},
    usage=USAGE,
)
EMBED = closed(
    "input",
    model=MODEL_FIELD,
    input=told(f"or a list of 1 to {MAX_INPUTS} texts", minLength=1, **TEXT),
    encoding_format={"type": "string", "enum": list(VECTOR_FORMATS), **NULLABLE},
    user=told("known, and left out"),
) | {"example": {"model": "default", "input": "Say hello in one sentence."}}
VECTORS = an_object(
    object=TEXT,
    model=TEXT,
    data={
        "type": "array",
        "items": an_object(object=TEXT, index=COUNT, embedding=told("numbers or base64")),
    },
    usage=USAGE,
)
MODEL = an_object(id=TEXT, object=TEXT, created=COUNT, owned_by=TEXT)
MODELS = an_object(object=TEXT, data={"type": "array", "items": MODEL})
FAILURE = an_object(
    error=an_object(
        message=told("what is wrong and the next step", type="string"),
        type=told("OpenAI's word for the kind of error", type="string"),
        param=told("the parameter at fault, if it is one", type="string"),
        code=told("a stable word for programs", type="string"),
    ),
)
