"""OpenAI's models, and every server that speaks the same protocol: Ollama, vLLM, llama.cpp."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from config import Settings
from providers.adapter import Adapter, Reader, Sent
from providers.base import Call
from providers.line import closed, left_out
from providers.openai_faults import client_failures, fault_of, refused_option
from providers.openai_models import is_openais, takes_temperature
from providers.openai_replies import billed, fold, read_message, unread
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
        base_url: str = "",
        connections: int = 64,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(model, READER, connections, timer)
        self._api_key, self._base_url = api_key or NO_KEY, base_url or OPENAI

    @classmethod
    def from_settings(cls, settings: Settings) -> OpenAIProvider:
        return cls(
            settings.openai_api_key,
            settings.openai_model,
            base_url=settings.openai_base_url,
            connections=settings.upstream_concurrency,
        )

    def _fault(self, error: Exception, call: Call, sent: Sent, raw: Mapping[str, Any]) -> UpstreamFault:
        return unread(super()._fault(error, call, sent, raw), raw)

    def _sent(self, call: Call) -> Sent:
        body = self._body(call)
        options = {"model": call.model, "timeout": max(call.seconds, 0.0), "extra_body": body}
        return Sent(options, left_out(call, temperature="temperature" in body))

    def _body(self, call: Call) -> dict[str, Any]:
        """What goes into the request beside model and messages; it passes the client library untouched.

        Its own `response_format` would turn a cut reply into an exception without the text, and its
        `max_completion_tokens` is silently ignored by servers that know `max_tokens` only.
        """
        body: dict[str, Any] = {
            "max_completion_tokens" if is_openais(call.model) else "max_tokens": call.max_tokens
        }
        if takes_temperature(call.model) and not self._declined.has(call.model, "temperature"):
            body["temperature"] = call.wording.temperature
        schema = call.wording.schema
        if schema is not None and not self._declined.has(call.model, "response_format"):
            named = {"name": "answer", "strict": True, "schema": closed(schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        return body

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
