"""What is remembered of an answer, and under which key it is found again."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from chats import ToolCall
from code_facts import CodeFacts
from lru_cache import response_key
from providers.asking import Meter
from providers.base import NO_CODE, Billed, Reply
from tasks import TEMPERATURES, WORDING_VERSION, Ask, Task

MEMO_SIZE = 1024
# A remembered answer takes its text and about this much beside it.
KEPT_OVERHEAD_BYTES = 700


@dataclass(frozen=True, slots=True)
class Kept:
    """What is remembered of an answer: its text, what was billed for it, and what records and replies show of it."""

    text: str
    provider: str
    model: str
    charges: tuple[Billed, ...]
    whole: bool
    shown: str = ""
    code: CodeFacts = NO_CODE
    ignored: tuple[str, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    classified: str | None = None

    @property
    def size_bytes(self) -> int:
        calls = sum(len(call.arguments.encode()) + KEPT_OVERHEAD_BYTES for call in self.calls)
        beside = len(self.shown) + len(self.classified or "") + calls
        return len(self.text.encode()) + beside + KEPT_OVERHEAD_BYTES


def kept_of(reply: Reply, meter: Meter, shown: str, marks: str | None) -> Kept:
    charges = tuple(meter.charges)
    said = (shown, reply.code, reply.ignored, reply.calls, marks)
    return Kept(reply.text, reply.provider, reply.model, charges, reply.whole, *said)


class Keys:
    """offer: the chain's, since providers and their models together decide an answer."""

    def __init__(self, offer: tuple[tuple[str, tuple[str, ...]], ...]) -> None:
        self._offer = offer
        # The same few options come again with each ask.
        self._options = functools.lru_cache(MEMO_SIZE)(self._digest_options)

    def of(self, ask: Ask) -> str:
        options = self._options(
            ask.task, ask.tenant, ask.model, ask.models, ask.max_tokens, ask.categories, ask.multi_label
        )
        return response_key(ask.key_text, ask.task.value, options=options)

    def _digest_options(
        self,
        task: Task,
        tenant: str,
        model: str | None,
        models: tuple[str, ...],
        max_tokens: int | None,
        categories: tuple[str, ...],
        multi_label: bool,
    ) -> str:
        """Everything beside the text that makes two asks different, as one digest."""
        return response_key(
            "",
            task.value,
            tenant=tenant,
            chain=self._offer,
            model=model,
            # Else a key would be served what it may not ask for.
            models=list(models),
            temperature=TEMPERATURES.get(task),
            wording=WORDING_VERSION,
            max_tokens=max_tokens,
            categories=list(categories),
            multi_label=multi_label,
        )
