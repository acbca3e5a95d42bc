"""Gemini through langchain-google-genai: the provider, and generate_text / generate_code / classify_text."""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import rules
from config import Settings, load_settings
from cost_tracker import TokenCounter
from providers.adapter import Adapter, Reader, Sent
from providers.asking import Meter, Terms, answer_from
from providers.base import Call, Provider
from providers.gemini_faults import client_failures, fault_of
from providers.gemini_replies import billed, fold, read_message
from providers.line import left_out, tls
from providers.retry import RetryPolicy
from providers.sandbox import SandboxProvider
from providers.turns import tool_options
from tasks import Ask, Task

if TYPE_CHECKING:
    from langchain_google_genai import ChatGoogleGenerativeAI

    from providers.transport import BoundedTransport

log = logging.getLogger(__name__)

GOOGLE = "https://generativelanguage.googleapis.com"
# These models ignore a temperature; the client library warns on each call that sends one.
FIXED_SAMPLING = frozenset({"gemini-3.5-flash-lite", "gemini-3.6-flash"})
# The client counts whole milliseconds, and takes zero of them for no limit.
LEAST_TIMEOUT = 0.001
RETIRED_SECONDS = 300.0
READER = Reader(read_message, billed, fold, client_failures, fault_of)


class GeminiProvider(Adapter["ChatGoogleGenerativeAI"]):
    """Google's Gemini models."""

    name = "gemini"

    def __init__(
        self,
        api_key: str,
        model: str,
        fallback_models: Sequence[str] = (),
        *,
        base_url: str = "",
        connections: int = 64,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(model, READER, connections, timer)
        self._api_key, self._base_url = api_key, base_url or GOOGLE
        self._chosen = tuple(dict.fromkeys((model, *fallback_models)))
        self._retired: dict[str, float] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> GeminiProvider:
        return cls(
            settings.google_api_key,
            settings.gemini_model,
            settings.gemini_fallback_models,
            base_url=settings.gemini_base_url,
            connections=settings.upstream_concurrency,
        )

    def models(self, requested: str | None, _embeds: bool = False) -> Sequence[str]:
        if requested is not None:
            return (requested,)
        now = self._timer()
        there = tuple(model for model in self._chosen if self._retired.get(model, now) <= now)
        return there or self._chosen

    def retired(self, model: str) -> None:
        if model in self._chosen:
            log.warning("gemini no longer has the model %s; trying the next of GEMINI_FALLBACK_MODELS", model)
            self._retired[model] = self._timer() + RETIRED_SECONDS

    def _client(self, model: str) -> tuple[ChatGoogleGenerativeAI, BoundedTransport]:
        client, transport = self._line.open()
        if model != client.model:
            client = client.model_copy(update={"model": model})  # 22 us, and the same connections
        return client, transport

    def _connect(self, transport: BoundedTransport) -> ChatGoogleGenerativeAI:
        from langchain_google_genai import ChatGoogleGenerativeAI  # 2 s: on first use, not on import

        return ChatGoogleGenerativeAI(
            model=self._chosen[0],
            api_key=self._api_key,
            base_url=self._base_url,
            vertexai=False,
            temperature=None,  # its own default is 0.7, not the model's
            max_retries=1,  # counts attempts: the retries are ours
            # verify: unused below our transport; without it the library reads all its authorities anew.
            client_args={
                "transport": transport,
                "trust_env": False,
                "follow_redirects": False,
                "verify": tls(),
            },
        )

    def _sent(self, call: Call, client: ChatGoogleGenerativeAI) -> Sent:
        options: dict[str, Any] = {
            "max_output_tokens": call.max_tokens,
            "timeout": max(call.seconds, LEAST_TIMEOUT),
            **_schema(call),
        }
        if call.wording.temperature is not None and call.model not in FIXED_SAMPLING:
            options["temperature"] = call.wording.temperature
        if call.wording.chat is not None:
            chat = call.wording.chat
            options |= {"stop": list(chat.stop) or None, **tool_options(client, chat)}
        return Sent(options, left_out(call, temperature="temperature" in options))


def _schema(call: Call) -> dict[str, Any]:
    chat, schema = call.wording.chat, call.wording.schema
    if chat and chat.schema:
        schema = json.loads(chat.schema).get("schema", {})
    if schema is None:
        return {}
    shape = {"response_json_schema": schema} if schema else {}
    return {"response_mime_type": "application/json", **shape}


# The doors for Python callers; they use the same provider, wording and policy as the HTTP routes.


def generate_text(prompt: str) -> str:
    """The model's answer to a prompt. Raises a PlatformError."""
    return _ask(Task.TEXT, prompt, "prompt")


def generate_code(prompt: str) -> str:
    """Code for a request, without Markdown around it. Raises a PlatformError."""
    return _ask(Task.CODE, prompt, "prompt")


def classify_text(text: str, categories: Sequence[str]) -> str:
    """Exactly one of the categories. Raises a PlatformError."""
    return _ask(Task.CLASSIFY, text, "text", rules.category_list(categories))


def _ask(task: Task, text: str, field: str, categories: tuple[str, ...] = ()) -> str:
    settings, provider, terms = _speaker()
    checked = rules.text_field(text, field, settings.max_prompt_chars)
    ask = Ask(task, checked, time.monotonic() + settings.llm_timeout_seconds, categories)
    return answer_from(provider, ask, Meter(TokenCounter().count_tokens), terms).text


@functools.cache
def _speaker() -> tuple[Settings, Provider, Terms]:
    settings = load_settings()
    has_key = bool(settings.google_api_key)
    provider: Provider = GeminiProvider.from_settings(settings) if has_key else SandboxProvider()
    return settings, provider, Terms(RetryPolicy(settings.llm_max_attempts), settings.max_output_tokens)
