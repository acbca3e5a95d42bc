"""OpenAI's models, and every server that speaks the same protocol: Ollama, vLLM, llama.cpp."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from config import Settings
from providers.base import Call, Reply
from providers.declined import Declined
from providers.line import Line, closed, messages
from providers.openai_faults import client_failures, fault_of, refused_option
from providers.openai_models import is_openais, takes_temperature
from providers.openai_replies import read_message, unread
from providers.reply_facts import read_body

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI

    from errors import UpstreamFault
    from providers.transport import BoundedTransport

OPENAI = "https://api.openai.com/v1"
# A server of one's own may ask for no key; the client library insists on one.
NO_KEY = "none"


class OpenAIProvider:
    """Models behind OpenAI's chat completions. One shared client, built on first use; one attempt per call."""

    name = "openai"

    def __init__(
        self,
        api_key: str,
        model: str,
        *,
        base_url: str = "",
        connections: int = 64,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api_key, self._model, self._base_url = api_key or NO_KEY, model, base_url or OPENAI
        self._declined = Declined(self.name, timer)
        self._line = Line(self._connect, connections)

    @classmethod
    def from_settings(cls, settings: Settings) -> OpenAIProvider:
        return cls(
            settings.openai_api_key,
            settings.openai_model,
            base_url=settings.openai_base_url,
            connections=settings.upstream_concurrency,
        )

    def models(self, requested: str | None) -> Sequence[str]:
        return (self._model if requested is None else requested,)

    def retired(self, model: str) -> None:
        """There is no second model to move on to."""

    def call(self, call: Call) -> Reply:
        client, transport = self._line.open()
        sent = self._body(call)
        try:
            message = client.invoke(
                messages(call), model=call.model, timeout=max(call.seconds, 0.0), extra_body=sent
            )
            reply = read_message(message, read_body(transport.last_body()), call.model)
            return reply if "temperature" in sent else replace(reply, ignored=("temperature",))
        except client_failures() as error:
            raise self._fault(error, call, sent, transport.last_body()) from error
        finally:
            transport.forget_body()

    def warm(self) -> None:
        self._line.open()

    def _fault(self, error: Exception, call: Call, sent: dict[str, Any], body: bytes) -> UpstreamFault:
        option = refused_option(error, sent)
        fault = fault_of(error)
        if option is not None and fault.code == "upstream_error":
            return self._declined.note(call.model, option)
        return unread(fault, read_body(body), call.model)

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
            use_responses_api=False,  # by the model's name alone it would speak another protocol
            http_client=httpx2.Client(transport=transport, trust_env=False),
            # Never used, so never verified; without it the library builds one that asks the environment for proxies.
            http_async_client=httpx2.AsyncClient(trust_env=False, verify=False),
        )
