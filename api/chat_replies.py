"""An answer as OpenAI's chat completion: whole, or in chunks as it comes, the bill inside `usage`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from flask import Response

from api.error_shapes import openai_failure_json
from api.replies import bill_json, render_json
from api.sse import event
from chats import ToolCall
from errors import PlatformError
from prices import format_dollars
from taps import Beginning
from tasks import Answer, Bill

DONE = b"data: [DONE]\n\n"


def render_chat(answer: Answer, request_id: str) -> Response:
    """200 with the completion, and its bill in the headers too."""
    message = _message(answer, request_id)
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(answer)}
    usage = usage_json(answer.bill, answer.overall_nano, answer.cached, answer.left_nano)
    body = _frame(request_id, "chat.completion") | {"model": answer.bill.model, "choices": [choice]}
    return render_json(body | {"usage": usage}, answer)


def _frame(request_id: str, kind: str) -> dict[str, Any]:
    known = {"id": f"chatcmpl-{request_id}", "object": kind, "created": int(time.time())}
    return known | {"system_fingerprint": None}


def _message(answer: Answer, request_id: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None, "refusal": None}
    return message | ({"tool_calls": calls_json(answer.calls, request_id)} if answer.calls else {})


def calls_json(calls: Sequence[ToolCall], request_id: str) -> list[dict[str, Any]]:
    """The calls, each with an id of its own: not every server gives one, and callers answer by it."""
    given = [call.id for call in calls]
    return [
        _call_json(call, call.id if call.id and given.count(call.id) == 1 else f"call_{request_id}_{place}")
        for place, call in enumerate(calls)
    ]


def _call_json(call: ToolCall, name: str) -> dict[str, Any]:
    wanted = {"name": call.name, "arguments": call.arguments or "{}"}
    return {"id": name, "type": "function", "function": wanted}


def finish_reason(answer: Answer) -> str:
    if not answer.whole:
        return "length"
    return "tool_calls" if answer.calls else "stop"


def usage_json(bill: Bill, overall_nano: int, cached: bool, left_nano: int | None = None) -> dict[str, Any]:
    """Tokens as OpenAI counts them, and what they cost: dollars of nine decimals, null where a model has no price."""
    usage = bill.usage
    counts = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
    left = {} if left_nano is None else {"budget_remaining": format_dollars(left_nano)}
    cost = bill_json(bill, overall_nano)["cost"] | {"cached": cached} | left
    return counts | {"cost": cost} | ({"estimated": True} if usage.estimated else {})


class ChatVoice:
    """Chunks: the role, pieces of text, each call of a tool as one, the end; then `[DONE]`.

    The bill stands in the chunk of the end, or with `usage_apart` in one more of its own.
    """

    def __init__(self, request_id: str, usage_apart: bool) -> None:
        self._frame, self._usage_apart = _frame(request_id, "chat.completion.chunk"), usage_apart
        self._request_id = request_id

    def begin(self, beginning: Beginning) -> bytes:
        self._frame["model"] = beginning.model
        return self._delta({"role": "assistant", "content": "", "refusal": None})

    def piece(self, text: str) -> bytes:
        return self._delta({"content": text})

    def last(self, answer: Answer) -> bytes:
        usage = usage_json(answer.bill, answer.overall_nano, answer.cached, answer.left_nano)
        told = calls_json(answer.calls, self._request_id)
        calls = [self._delta({"tool_calls": [{"index": place} | call]}) for place, call in enumerate(told)]
        if self._usage_apart:
            end = self._delta({}, finish_reason(answer)) + self._chunk([], {"usage": usage})
        else:
            end = self._delta({}, finish_reason(answer), {"usage": usage})
        return b"".join([*calls, end, DONE])

    def failed(self, failure: PlatformError) -> bytes:
        told = openai_failure_json(failure)
        if failure.bill is not None:
            told["usage"] = usage_json(failure.bill, failure.overall_nano, False, failure.left_nano)
        return event(told)

    def _delta(
        self, delta: dict[str, Any], finish: str | None = None, more: dict[str, Any] | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._chunk([choice], more or ({"usage": None} if self._usage_apart else {}))

    def _chunk(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> bytes:
        return event(self._frame | {"choices": choices} | more)
