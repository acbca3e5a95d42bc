"""An answer as it comes: the road runs on a thread of its own, so that the reader is told of every silence."""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from errors import CallerLeft, Overloaded
from taps import Beginning, Tap
from tasks import Answer

Road = Callable[[Tap], Answer]


class Roads:
    """A thread for each answer on its way: it may outlive its reader, and ends with its answer.

    A pool would keep its threads, and its process, for longer than anybody needs them.
    """

    def __init__(self) -> None:
        self._walked: set[threading.Thread] = set()

    def start(self, road: Callable[[], Answer]) -> Future[Answer]:
        over: Future[Answer] = Future()
        thread = threading.Thread(target=self._walk, args=(road, over), name="stream", daemon=True)
        self._walked.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the system has none left
            self._walked.discard(thread)
            raise Overloaded() from None
        return over

    def _walk(self, road: Callable[[], Answer], over: Future[Answer]) -> None:
        try:
            over.set_result(road())
        except BaseException as failure:  # noqa: BLE001  whoever asks for the answer raises it
            over.set_exception(failure)
        finally:
            self._walked.discard(threading.current_thread())

    def under_way(self) -> int:
        """How many answers are still being made, read or not."""
        return len(self._walked)

    def wait(self, seconds: float) -> bool:
        """Whether all of them came to their end within these seconds."""
        until = time.monotonic() + seconds
        for thread in list(self._walked):
            thread.join(max(0.0, until - time.monotonic()))
        return not self._walked


class Stream:
    """One answer on its way, made by `road` on a thread of its own.

    Whoever reads may stop at any time, or never start: the road sees it at the next piece, and settles its bill
    whatever happens. goes_on: it goes on to its end all the same.
    """

    def __init__(self, road: Road, roads: Roads, *, goes_on: bool = False) -> None:
        self._goes_on = goes_on
        self._news: queue.SimpleQueue[Beginning | str | None] = queue.SimpleQueue()
        self._left = threading.Event()
        self._answer = roads.start(functools.partial(road, self))
        self._answer.add_done_callback(lambda _: self._news.put(None))

    # The road's side: a Tap.

    def begin(self, beginning: Beginning) -> None:
        self._tell(beginning)

    def say(self, text: str) -> None:
        self._tell(text)

    def end(self) -> None:
        """The reader sees the end when the bill is settled."""

    def _tell(self, news: Beginning | str) -> None:
        if self._left.is_set() and not self._goes_on:
            raise CallerLeft()
        if news != "":
            self._news.put(news)

    # The reader's side.

    def start(self) -> Beginning | Answer:
        """Wait for the first piece, or for an answer that is whole at once. Raises what the road raised before."""
        first = self._news.get()
        if isinstance(first, Beginning):
            return first
        return self._answer.result()

    def pieces(self, patience: float) -> Iterator[str]:
        """The texts after the beginning; an empty one whenever nothing came for `patience` seconds."""
        while True:
            try:
                news = self._news.get(timeout=patience)
            except queue.Empty:
                news = ""
            if not isinstance(news, str):
                return
            yield news

    def failure(self) -> BaseException | None:
        """What the road raised after the pieces, if it did."""
        return self._answer.exception()

    def answer(self) -> Answer:
        """The answer with its bill, once the pieces have ended well."""
        return self._answer.result()

    def leave(self) -> None:
        """Nobody reads any more."""
        self._left.set()

    def when_over(self, tell: Callable[[Future[Answer]], None]) -> None:
        """Tell once the road has ended, from its thread, or at once if it has."""
        self._answer.add_done_callback(tell)
