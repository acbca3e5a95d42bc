"""Version 2: OpenAI's wire format. It reads and renders in its own way; the road is the same."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response
from flask_restx import Namespace, Resource

from api import openai_schemas as shapes
from api.chat_asks import OWN_CHOICE, read_chat
from api.chat_replies import ChatVoice, render_chat
from api.embeddings import read_embed, render_vectors
from api.house import services
from api.replies import json_reply
from api.sse import stream_answer
from api.v1 import AUTHORIZATIONS, PlatformApi, documented
from api.visit import current_visit
from config import VERSION
from errors import ModelNotListed
from services import models_of

chat = Namespace("chat", description="Answers to conversations", path="/chat")
embeddings = Namespace("embeddings", description="Vectors for texts", path="/embeddings")
models = Namespace("models", description="What may be named as `model`", path="/models")

failure = chat.schema_model("OpenAIFailure", shapes.FAILURE)


@chat.route("/completions")
class ChatCompletions(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @documented(
        chat,
        chat.schema_model("Chat", shapes.CHAT),
        chat.schema_model("ChatCompletion", shapes.COMPLETION),
        failure,
    )
    def post(self) -> Response:
        """Answer a conversation, whole or as it comes."""
        house = services()
        wanted = read_chat(house.settings)
        request_id = wanted.ask.request_id
        if wanted.streamed:
            return stream_answer(house, wanted.ask, ChatVoice(request_id, wanted.usage_apart))
        return render_chat(house.pipeline.answer(wanted.ask), request_id)


@embeddings.route("")
class Embeddings(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @documented(
        embeddings,
        embeddings.schema_model("Texts", shapes.EMBED),
        embeddings.schema_model("Vectors", shapes.VECTORS),
        failure,
    )
    def post(self) -> Response:
        """Turn texts into vectors, where a provider does."""
        house = services()
        wanted = read_embed(house.settings)
        return render_vectors(house.pipeline.answer(wanted.ask), wanted.packed)


@models.route("")
class Models(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @models.response(200, "what is configured", models.schema_model("Models", shapes.MODELS))  # type: ignore[untyped-decorator]  # Flask-RESTX ships no types
    def get(self) -> Response:
        """List the models that are configured, the platform's own choice first."""
        return json_reply({"object": "list", "data": [*_cards().values()]})


@models.route("/<path:model>")
class Model(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @models.response(200, "it is configured", models.schema_model("Model", shapes.MODEL))  # type: ignore[untyped-decorator]  # Flask-RESTX ships no types
    @models.response(404, "it is not", failure)  # type: ignore[untyped-decorator]  # Flask-RESTX ships no types
    def get(self, model: str) -> Response:
        """Show one of them, named alone or after its provider."""
        cards = _cards()
        named = cards.get(model) or next((card for card in cards.values() if _full(card) == model), None)
        if named is None:
            raise ModelNotListed(field="model")
        return json_reply(named)


def _cards() -> dict[str, dict[str, Any]]:
    """The models by id. Of a name that two providers have, the first one answers."""
    cards = {OWN_CHOICE: _card(OWN_CHOICE, "platform")}
    for link in services().chain.links:
        for model in models_of(link.provider):
            cards.setdefault(model, _card(model, link.name))
    return {model: card for model, card in cards.items() if model == OWN_CHOICE or _is_allowed(card)}


def _card(model: str, owner: str) -> dict[str, Any]:
    # When a model was made is not known here; clients want a number.
    return {"id": model, "object": "model", "created": 0, "owned_by": owner}


def _is_allowed(card: dict[str, Any]) -> bool:
    models = current_visit().identity.models
    return not models or card["id"] in models or _full(card) in models


def _full(card: dict[str, Any]) -> str:
    return f"{card['owned_by']}/{card['id']}"


def build_v2() -> tuple[Blueprint, PlatformApi]:
    """The blueprint of version 2 and its Api, new for each app."""
    blueprint = Blueprint("api_v2", __name__, url_prefix="/api/v2")
    api = PlatformApi(
        blueprint,
        version=VERSION,
        title="Enterprise LLM API Platform, in OpenAI's wire format",
        doc=False,
        validate=False,
        authorizations=AUTHORIZATIONS,
        security=list(AUTHORIZATIONS),
    )
    for namespace in (chat, embeddings, models):
        api.add_namespace(namespace)
    return blueprint, api
