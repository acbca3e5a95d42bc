"""Where the pieces of an answer go as they come: to whoever listens, without the fence that models put around code."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Protocol

_OPENING = re.compile(r"\s*```[^\n`]*\n")
_PERHAPS_OPENING = re.compile(r"\s*(?:`{0,2}|```[^\n`]{0,99})\Z")
_CLOSING = re.compile(r"\n?```\s*\Z")
_PERHAPS_CLOSING = re.compile(r"(?:\n|\n?`{1,2}|\n?```\s*)\Z")


@dataclass(frozen=True, slots=True)
class Beginning:
    """What is known of an answer when its first piece is there."""

    provider: str
    model: str
    attempts: int
    cache_status: str = ""
    ignored: tuple[str, ...] = ()


class Tap(Protocol):
    """Listens to an answer. Each method raises CallerLeft once nobody does any more."""

    def begin(self, beginning: Beginning) -> None:
        """The first piece is there: nobody else can answer from here on."""
        ...

    def say(self, text: str) -> None: ...

    def end(self) -> None:
        """The last piece was said."""
        ...


class Announced:
    """A tap that says at the beginning what the cache had to do with it."""

    def __init__(self, tap: Tap, status: str) -> None:
        self._tap, self._status, self.say, self.end = tap, status, tap.say, tap.end

    def begin(self, beginning: Beginning) -> None:
        self._tap.begin(replace(beginning, cache_status=self._status))


class Unfenced:
    """Passes code on without the fence around it, as far as that can be told while it comes.

    A text of several blocks loses its first fence only, and so does one that was cut before its closing fence: by then
    the first line is long gone.
    """

    def __init__(self, tap: Tap) -> None:
        self._tap, self.begin = tap, tap.begin
        self._held, self._fenced, self._plain = "", False, False

    def say(self, text: str) -> None:
        if self._plain:
            self._tap.say(text)
            return
        self._held += text
        if not self._fenced:
            self._look_for_opening()
        if self._fenced:
            self._pass(self._held, _PERHAPS_CLOSING)

    def _look_for_opening(self) -> None:
        opening = _OPENING.match(self._held)
        if opening:
            self._fenced, self._held = True, self._held[opening.end() :]
        elif not _PERHAPS_OPENING.match(self._held):
            self._plain = True
            self._pass(self._held)

    def _pass(self, text: str, ending: re.Pattern[str] | None = None) -> None:
        """Say the text but for an ending that has to wait for what comes after it."""
        held = ending.search(text) if ending else None
        said, self._held = (text[: held.start()], held[0]) if held else (text, "")
        if said:
            self._tap.say(said)

    def end(self) -> None:
        self._pass(_CLOSING.sub("", self._held) if self._fenced else self._held)
        self._tap.end()
