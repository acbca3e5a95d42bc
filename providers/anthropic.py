"""Anthropic's Claude models through langchain-anthropic."""

from __future__ import annotations

import json
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
from providers.turns import tool_options

if TYPE_CHECKING:
    from langchain_anthropic import ChatAnthropic

    from providers.transport import BoundedTransport

ANTHROPIC = "https://api.anthropic.com"
# Its scale ends here, where others go on to 2; it is also what a call without a temperature gets.
MOST_WARMTH = 1.0
NO_TOOL = {"type": "none"}
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

    def _sent(self, call: Call, client: ChatAnthropic) -> Sent:
        options: dict[str, Any] = {
            "model": call.model,
            "max_tokens": call.max_tokens,  # without it the library asks for up to 128,000
            "timeout": max(call.seconds, 0.0),
        }
        chat, warmth = call.wording.chat, call.wording.temperature
        if warmth is not None and warmth <= MOST_WARMTH and takes_temperature(call.model):
            options["temperature"] = warmth
        schema = self._schema(call)
        if schema is not None:
            options["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        if chat is not None:
            options |= {"stop": list(chat.stop) or None, **tool_options(client, chat, NO_TOOL)}
        taken = {"temperature": "temperature" in options, "response_format": "output_config" in options}
        return Sent(options, left_out(call, **taken))

    def _schema(self, call: Call) -> dict[str, Any] | None:
        """The schema of the reply. JSON of any shape is nothing that could be asked for."""
        chat, schema = call.wording.chat, call.wording.schema
        if chat and chat.schema:
            from anthropic import transform_schema

            own = json.loads(chat.schema).get("schema")
            return transform_schema(own) if own else None
        declined = schema is None or self._declined.has(call.model, "output_config")
        return None if schema is None or declined else closed(schema)

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
