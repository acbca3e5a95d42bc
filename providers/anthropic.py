"""Anthropic's Claude models through langchain-anthropic."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from config import Settings
from providers.anthropic_faults import client_failures, fault_of, refused_option
from providers.anthropic_replies import SERVED_BY, read_message, read_usage
from providers.base import Call, Reply
from providers.declined import Declined
from providers.line import Line, closed, messages
from providers.reply_facts import read_body, served_model, with_usage

if TYPE_CHECKING:
    from langchain_anthropic import ChatAnthropic

    from errors import UpstreamFault
    from providers.transport import BoundedTransport

ANTHROPIC = "https://api.anthropic.com"
# The last generations that take a temperature: from Opus 4.7, Sonnet 5 and Haiku 5 on it is a 400.
_SAMPLED = re.compile(r"(?!claude-)|claude-(?:[23]|instant|(?:opus|sonnet|haiku)-4(?!-[789]))")


def takes_temperature(model: str) -> bool:
    return _SAMPLED.match(model) is not None


class AnthropicProvider:
    """Anthropic's Claude models. One shared client, built on first use; one attempt per call."""

    name = "anthropic"

    def __init__(
        self,
        api_key: str,
        model: str,
        *,
        base_url: str = "",
        connections: int = 64,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api_key, self._model, self._base_url = api_key, model, base_url or ANTHROPIC
        self._declined = Declined(self.name, timer)
        self._line = Line(self._connect, connections)

    @classmethod
    def from_settings(cls, settings: Settings) -> AnthropicProvider:
        return cls(
            settings.anthropic_api_key,
            settings.anthropic_model,
            base_url=settings.anthropic_base_url,
            connections=settings.upstream_concurrency,
        )

    def models(self, requested: str | None) -> Sequence[str]:
        return (self._model if requested is None else requested,)

    def retired(self, model: str) -> None:
        """There is no second model to move on to."""

    def call(self, call: Call) -> Reply:
        client, transport = self._line.open()
        sent = self._options(call)
        try:
            message = client.invoke(messages(call), **sent)
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
        raw = read_body(body)
        return with_usage(fault, read_usage(raw), served_model(raw, SERVED_BY, call.model))

    def _options(self, call: Call) -> dict[str, Any]:
        options: dict[str, Any] = {
            "model": call.model,
            "max_tokens": call.max_tokens,  # without it the library asks for up to 128,000
            "timeout": max(call.seconds, 0.0),
        }
        if takes_temperature(call.model):
            options["temperature"] = call.wording.temperature
        schema = call.wording.schema
        if schema is not None and not self._declined.has(call.model, "output_config"):
            options["output_config"] = {"format": {"type": "json_schema", "schema": closed(schema)}}
        return options

    def _connect(self, transport: BoundedTransport) -> ChatAnthropic:
        import anthropic
        import httpx2
        from langchain_anthropic import ChatAnthropic  # 2.5 s: on first use, not on import
        from pydantic import SecretStr

        chat = ChatAnthropic(
            model_name=self._model,
            api_key=SecretStr(self._api_key),
            base_url=self._base_url,
            timeout=None,
            stop=None,
        )
        # The class takes no HTTP client; this is the one that its first call would otherwise build.
        vars(chat)["_client"] = anthropic.Anthropic(
            api_key=self._api_key,
            base_url=self._base_url,
            max_retries=0,
            http_client=httpx2.Client(transport=transport, trust_env=False),
            open_telemetry=False,  # by a switch of the environment it would ship prompts
        )
        return chat
