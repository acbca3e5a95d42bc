"""What the model says to an ask, and the tokens that it is billed at: the same whatever the protocol."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from .answers import answer_text, conforming, digest, tokens_for, within
from .asks import Ask
from .faults import UNREADABLE, Fault
from .journal import Tokens

CHUNKS = 4  # of a stream
# The soft failures, each with its reason; those without one never came as far as an answer.
SILENT = {
    "blocked_prompt": "",
    "no_candidates": "",
    "blocked_answer": "filtered",
    "recitation": "recited",
    "refusal": "refused",
    "empty": "length",
}


@dataclass(frozen=True, slots=True)
class Said:
    """A text, or the arguments of a tool call as JSON.

    reason: stop, sequence (one of the caller's own), length, tool, filtered, recited or refused; empty where
    there is no answer at all.
    """

    text: str
    tokens: Tokens
    reason: str = "stop"
    tool: str = ""
    sequence: str = ""

    def slices(self, count: int = CHUNKS) -> list[tuple[str, Tokens]]:
        """The text in so many parts, each with the tokens used by then."""
        if count == 1:
            return [(self.text, self.tokens)]
        edges = [len(self.text) * part // count for part in range(count + 1)]
        ends = range(1, count + 1)
        spent = [replace(self.tokens, candidates=self.tokens.candidates * end // count) for end in ends]
        return [(self.text[edges[end - 1] : edges[end]], spent[end - 1]) for end in ends]


def said(ask: Ask, fault: Fault) -> Said:
    given = None if fault.name in UNREADABLE else fault.text
    tool = ask.tool.name if ask.tool and given is None else ""
    text, sequence = _stopped(_words(ask) if given is None else given, () if tool else ask.stops)
    reason = "tool" if tool else "sequence" if sequence else "stop"
    if fault.name == "max_tokens":
        text, reason = text[: len(text) // 2], "length"
    tokens = tokens_for(ask.prompt, ask.system, text, writes=ask.writes_cache)
    if given is None and fault.usage is None and reason != "length":
        text, tokens, cut = within(ask.limit, text, tokens)
        reason = "length" if cut else reason
    if fault.name in SILENT:
        text, tokens, reason, tool = "", *_silent(ask, fault, tokens), ""
    return Said(text, fault.usage or tokens, reason, tool, sequence if reason == "sequence" else "")


def _words(ask: Ask) -> str:
    if ask.tool is not None:
        return json.dumps(conforming(ask.tool.schema, digest(ask.model, ask.system, ask.prompt)))
    return answer_text(ask.model, ask.system, ask.prompt, ask.schema)


def _stopped(text: str, stops: tuple[str, ...]) -> tuple[str, str]:
    """The text up to the first of the caller's own stop sequences, and which one that was."""
    found = [(text.find(stop), stop) for stop in stops if stop in text]
    if not found:
        return text, ""
    place, stop = min(found)
    return text[:place], stop


def _silent(ask: Ask, fault: Fault, tokens: Tokens) -> tuple[Tokens, str]:
    """The soft failures: a 200 that says nothing and is billed all the same."""
    if fault.name == "empty":
        spent = ask.limit or tokens.candidates + tokens.thoughts
        return replace(tokens, candidates=0, thoughts=spent), "length"
    thoughts = tokens.thoughts if SILENT[fault.name] else 0
    return replace(tokens, candidates=0, thoughts=thoughts), SILENT[fault.name]
