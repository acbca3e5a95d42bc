"""Version 1: the three task routes; its reports stand in api/reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Blueprint, Response
from flask_restx import Api, Namespace, Resource, fields

from api import schemas
from api.accounts import keys, users
from api.examples import with_example
from api.feedback import feedback
from api.house import services
from api.replies import render_answer
from api.reports import reports
from api.sign_in import auth
from api.sse import TaskVoice, stream_answer
from config import VERSION
from rules import MODEL_NAME
from tasks import Task

View = TypeVar("View", bound=Callable[..., Response])


class PlatformApi(Api):  # type: ignore[misc]  # Flask-RESTX ships no types
    """An Api that leaves every error to Flask, so that errors have one shape."""

    def add_namespace(self, ns: Namespace, path: str | None = None) -> None:
        super().add_namespace(ns, path)
        # A namespace lives as long as the process, and would keep the app of each Api that it remembers.
        ns.apis.clear()

    def error_router(self, original_handler: Any, error: Exception) -> Any:
        return original_handler(error)


generate = Namespace("generate", description="Text and code from a prompt", path="/generate")
classify = Namespace("classify", description="Categories for a text", path="/classify")

# For the button of Swagger's page; where AUTH=open the tasks and reports need none.
AUTHORIZATIONS = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Bearer` and a key or token",
    },
}
MODEL = f"^(?:{MODEL_NAME.pattern})$"


def or_null(described: fields.Raw) -> fields.Raw:
    """Null is as good as leaving the field out; Flask-RESTX has no word for that in Swagger 2.0."""
    told = described.schema() | {"x-nullable": True}
    described.schema = lambda: told
    return described


prompt = generate.model(
    "Prompt",
    {
        "prompt": fields.String(required=True, min_length=1, example="Say hello in one sentence."),
        "model": or_null(
            fields.String(pattern=MODEL, description="a model id; the platform's own choice if left out")
        ),
        "max_tokens": or_null(fields.Integer(min=1, description="at most so many output tokens")),
        "stream": or_null(
            fields.Boolean(
                default=False, description="true: the answer comes as server-sent events, the bill last"
            )
        ),
    },
    strict=True,
)
prompt = with_example(generate, prompt, prompt="Say hello in one sentence.")
text_to_classify = classify.model(
    "TextToClassify",
    {
        "text": fields.String(required=True, min_length=1, example="I love this phone."),
        "categories": fields.List(
            fields.String, required=True, min_items=1, max_items=50, example=["positive", "negative"]
        ),
        "multi_label": or_null(
            fields.Boolean(
                default=False,
                description="true: every category that fits, in place of the one that fits best",
            )
        ),
        "model": or_null(
            fields.String(pattern=MODEL, description="a model id; the platform's own choice if left out")
        ),
        "max_tokens": or_null(
            fields.Integer(
                min=1,
                description="at most so many output tokens, thoughts included: what a budget has to have room for",
            )
        ),
    },
    strict=True,
)
text_to_classify = with_example(
    classify, text_to_classify, text="I love this phone.", categories=["positive", "negative"]
)
failure = generate.model(
    "Failure",
    {
        "error": fields.String(description="what is wrong and the next step"),
        "code": fields.String(description="a stable word for programs"),
        "request_id": fields.String,
        "field": fields.String(description="the field at fault, if it is one"),
    },
)
generated_text = generate.model("GeneratedText", {"generated_text": fields.String})
generated_code = generate.model("GeneratedCode", {"generated_code": fields.String})
classification = classify.model(
    "Classification",
    {
        "classification": fields.String(description="one of the categories, exactly"),
        "classifications": fields.List(
            fields.String,
            description="with multi_label, in place of the other: those that fit, in the order of the ask, maybe none",
        ),
    },
)

FAILURES = {
    400: "a field is not as it must be",
    402: "a budget does not cover what this may cost; the sentence says what is left",
    409: "the first request with this Idempotency-Key is still at work",
    413: "the body is too large",
    415: "the body is not JSON",
    422: "the provider refused the content, or the Idempotency-Key was sent with another body before",
    429: "too many requests",
    502: "the provider answered with an error",
    503: "no provider is available",
    504: "the deadline has passed",
}


def documented(namespace: Namespace, body: Any, reply: Any, failure: Any = failure) -> Callable[[View], View]:
    """Swagger's view of a task route; what is checked stands in api/schemas."""

    def decorate(view: View) -> View:
        for status, text in FAILURES.items():
            namespace.response(status, text, failure)(view)
        namespace.response(200, "the answer; the headers say what it cost", reply)(view)
        namespace.expect(body)(view)
        namespace.param(
            "Idempotency-Key",
            "a request that is repeated under it is served once, and gets the first reply again",
            _in="header",
            maxLength=255,
        )(view)
        return view

    return decorate


def generated(task: Task, field: str) -> Response:
    """The answer in `field`, whole or as it comes."""
    house = services()
    ask, streamed = schemas.read_generate(task, house.settings)
    if streamed:
        return stream_answer(house, ask, TaskVoice(field, ask.request_id))
    return render_answer(field, house.pipeline.answer(ask))


@generate.route("/text")
class GenerateText(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @documented(generate, prompt, generated_text)
    def post(self) -> Response:
        """Answer a prompt with text."""
        return generated(Task.TEXT, "generated_text")


@generate.route("/code")
class GenerateCode(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @documented(generate, prompt, generated_code)
    def post(self) -> Response:
        """Answer a prompt with code."""
        return generated(Task.CODE, "generated_code")


@classify.route("/text")
class ClassifyText(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @documented(classify, text_to_classify, classification)
    def post(self) -> Response:
        """Choose one of the categories for a text, or with multi_label every one that fits."""
        house = services()
        ask = schemas.read_classify(house.settings)
        answer = house.pipeline.answer(ask)
        if ask.multi_label:
            return render_answer("classifications", answer, json.loads(answer.text))
        return render_answer("classification", answer)


def build_v1() -> tuple[Blueprint, PlatformApi]:
    """The blueprint of version 1 and its Api, new for each app."""
    blueprint = Blueprint("api_v1", __name__, url_prefix="/api/v1")
    api = PlatformApi(
        blueprint,
        version=VERSION,
        title="Enterprise LLM API Platform",
        doc=False,
        validate=False,
        authorizations=AUTHORIZATIONS,
        security=list(AUTHORIZATIONS),
    )
    for namespace in (generate, classify, feedback, reports, keys, users, auth):
        api.add_namespace(namespace)
    return blueprint, api
