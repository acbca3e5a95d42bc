"""Anthropic's Claude models through langchain-anthropic."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from config import Settings
from providers.adapter import Adapter, Reader, Sent
from providers.anthropic_faults import client_failures, fault_of, refused_option
from providers.anthropic_replies import billed, fold, read_message
from providers.base import Call
from providers.line import closed, left_out

if TYPE_CHECKING:
    from langchain_anthropic import ChatAnthropic

    from providers.transport import BoundedTransport

ANTHROPIC = "https://api.anthropic.com"
READER = Reader(read_message, billed, fold, client_failures, fault_of, refused_option)
# The last generations that take a temperature: from Opus 4.7, Sonnet 5 and Haiku 5 on it is a 400.
_SAMPLED = re.compile(r"(?!claude-)|claude-(?:[23]|instant|(?:opus|sonnet|haiku)-4(?!-[789]))")


def takes_temperature(model: str) -> bool:
    return _SAMPLED.match(model) is not None


class AnthropicProvider(Adapter["ChatAnthropic"]):
    """Anthropic's Claude models."""

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
        super().__init__(model, READER, connections, timer)
        self._api_key, self._base_url = api_key, base_url or ANTHROPIC

    @classmethod
    def from_settings(cls, settings: Settings) -> AnthropicProvider:
        return cls(
            settings.anthropic_api_key,
            settings.anthropic_model,
            base_url=settings.anthropic_base_url,
            connections=settings.upstream_concurrency,
        )

    def _sent(self, call: Call) -> Sent:
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
        return Sent(options, left_out(call, temperature="temperature" in options))

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
