"""OpenAI's models, and every server that speaks the same protocol: Ollama, vLLM, llama.cpp."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from config import Settings
from providers.adapter import Adapter, Reader, Sent, whole_body
from providers.base import Call, Reply
from providers.line import closed, left_out
from providers.openai_faults import client_failures, fault_of, refused_option
from providers.openai_models import is_openais, takes_temperature
from providers.openai_replies import billed, fold, read_embeddings, read_message, unread
from providers.turns import tool_choice
from tasks import EMBEDDINGS, TOOLS

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI

    from errors import UpstreamFault
    from providers.transport import BoundedTransport

OPENAI = "https://api.openai.com/v1"
# A server of one's own may ask for no key; the client library insists on one.
NO_KEY = "none"
READER = Reader(read_message, billed, fold, client_failures, fault_of, refused_option)


class OpenAIProvider(Adapter["ChatOpenAI"]):
    """Models behind OpenAI's chat completions."""

    name = "openai"
    offers = frozenset({TOOLS, EMBEDDINGS})

    def __init__(
        self,
        api_key: str,
        model: str,
        *,
        embedding_model: str = "",
        base_url: str = "",
        connections: int = 64,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(model, READER, connections, timer)
        self._api_key, self._base_url = api_key or NO_KEY, base_url or OPENAI
        self._embedding_model = embedding_model

    @classmethod
    def from_settings(cls, settings: Settings) -> OpenAIProvider:
        return cls(
            settings.openai_api_key,
            settings.openai_model,
            embedding_model=settings.openai_embedding_model,
            base_url=settings.openai_base_url,
            connections=settings.upstream_concurrency,
        )

    def models(self, requested: str | None, embeds: bool = False) -> Sequence[str]:
        return super().models(requested or (self._embedding_model if embeds else None))

    def call(self, call: Call) -> Reply:
        return self._embed(call) if call.wording.inputs else super().call(call)

    def _embed(self, call: Call) -> Reply:
        """Through the library below LangChain's, whose own embeddings know neither counts nor this line."""
        client, transport = self._client(call.model)
        body = functools.partial(whole_body, transport)
        with self._attempt(call, client, transport, body) as sent:
            client.root_client.embeddings.create(
                model=call.model,
                input=list(call.wording.inputs),
                encoding_format="base64",
                timeout=sent.options["timeout"],
            )
            return read_embeddings(body(), call)

    def _fault(self, error: Exception, call: Call, sent: Sent, raw: Mapping[str, Any]) -> UpstreamFault:
        return unread(super()._fault(error, call, sent, raw), raw)

    def _sent(self, call: Call, _client: ChatOpenAI) -> Sent:
        """What goes into the request beside model and messages passes the client library untouched.

        Its own `response_format` would turn a cut reply into an exception without the text, and its
        `max_completion_tokens` is silently ignored by servers that know `max_tokens` only.
        """
        limit = "max_completion_tokens" if is_openais(call.model) else "max_tokens"
        body = {limit: call.max_tokens, **self._taken(call), **_schema(call), **_tools(call)}
        if call.wording.chat is None and self._declined.has(call.model, "response_format"):
            body.pop("response_format", None)
        options = {"model": call.model, "timeout": max(call.seconds, 0.0), "extra_body": body}
        return Sent(options, left_out(call, temperature="temperature" in body, stop="stop" in body))

    def _taken(self, call: Call) -> dict[str, Any]:
        """The options that not every model takes."""
        chat, taken = call.wording.chat, dict[str, Any]()
        if call.wording.temperature is not None and takes_temperature(call.model):
            taken["temperature"] = call.wording.temperature
        if chat and chat.stop:
            taken["stop"] = list(chat.stop)
        return {name: value for name, value in taken.items() if not self._declined.has(call.model, name)}

    def _connect(self, transport: BoundedTransport) -> ChatOpenAI:
        import httpx2
        from langchain_openai import ChatOpenAI  # 2 s: on first use, not on import
        from pydantic import SecretStr

        return ChatOpenAI(
            model=self._model,
            api_key=SecretStr(self._api_key),
            base_url=self._base_url,
            max_retries=0,
            stream_usage=True,  # its own default with an address that is not OpenAI's is not to ask
            use_responses_api=False,  # by the model's name alone it would speak another protocol
            http_client=httpx2.Client(transport=transport, trust_env=False),
            # Never used, so never verified; without it the library builds one that asks the environment for proxies.
            http_async_client=httpx2.AsyncClient(trust_env=False, verify=False),
        )


def _schema(call: Call) -> dict[str, Any]:
    chat, schema = call.wording.chat, call.wording.schema
    if chat and chat.schema:
        card = json.loads(chat.schema)
    elif schema is not None:
        card = {"name": "answer", "strict": True, "schema": closed(schema)}
    else:
        return {}
    form = {"type": "json_schema", "json_schema": card} if card else {"type": "json_object"}
    return {"response_format": form}


def _tools(call: Call) -> dict[str, Any]:
    chat = call.wording.chat
    if chat is None or not chat.tools:
        return {}
    choice = tool_choice(chat)
    return {"tools": json.loads(chat.tools), **({"tool_choice": choice} if choice else {})}
