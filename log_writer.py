"""Writes log lines on a thread of its own, so that no request waits for a disk."""

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from log_lines import LineMaker, Record
from rotating_file import RotatingFile
from security.redaction import Redact
from security.redaction import redact as redact_secrets

Entry = Record | Callable[[], Record]


class LogChannel:
    """The way into one log file. The record belongs to the writer once it is handed over."""

    def __init__(self, writer: "LogWriter", file: RotatingFile, redact: Redact) -> None:
        self._writer, self.file, self._lines = writer, file, LineMaker(redact)
        self._opened, self._counting = False, threading.Lock()
        self.dropped = 0  # lines refused: the queue was full, or the writer closed
        self.errors = 0  # lines lost by a failed write

    @property
    def failing(self) -> bool:
        """From a failed write until the next one that succeeds. Each write is a new attempt."""
        return self.file.failing

    def write(self, record: Entry, *, must_keep: bool = False) -> None:
        """Queue the record. With `must_keep` a full queue means to write at once, on this thread.

        A function that makes the record is called on the writer's thread, where a batch of them is made in a
        third of the time that each would take between requests.
        """
        if not self._opened and not self._writer.closed:
            self._opened = True
            self.file.append([])  # so that the file is there when the first caller has its reply
        if self._writer.take(self, record):
            return
        if must_keep and not self._writer.closed:
            self.store([record])
        else:
            with self._counting:
                self.dropped += 1

    def store(self, records: Sequence[Entry]) -> None:
        lines = [line for record in records if (line := self._line(record))]
        lost = len(records) - len(lines) + self.file.append(lines)
        with self._counting:
            self.errors += lost

    def _line(self, record: Entry) -> bytes | None:
        try:
            return self._lines.line(record if isinstance(record, dict) else record())
        except Exception:  # noqa: BLE001 - a sink: some value's own __str__ failed; counted by the caller
            return None


class LogWriter:
    """One thread and one bounded queue for any number of log files.

    Nothing is started or opened before the first line. After `idle` seconds without one, the thread
    ends and the files are closed, until the next line.
    """

    def __init__(
        self,
        *,
        max_queue: int = 10_000,
        linger: float = 0.01,
        idle: float = 10.0,
        redact: Redact = redact_secrets,
    ) -> None:
        self._max_queue, self._linger, self._idle, self._redact = max_queue, linger, idle, redact
        self._channels: dict[Path, LogChannel] = {}
        self._queue: deque[tuple[LogChannel, Entry] | threading.Event] = deque()
        self._changing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._asleep, self._wake, self._hurry = False, threading.Event(), threading.Event()
        self.closed = False

    def channel(
        self, path: str | Path, max_bytes: int, backups: int, redact: Redact | None = None
    ) -> LogChannel:
        """The channel of this path; a second call for the same path gives the same one."""
        path = Path(os.path.abspath(path))
        with self._changing:
            if path not in self._channels:
                file = RotatingFile(path, max_bytes, backups)
                self._channels[path] = LogChannel(self, file, redact or self._redact)
            return self._channels[path]

    @property
    def dropped(self) -> int:
        return sum(channel.dropped for channel in self._channels.values())

    @property
    def errors(self) -> int:
        return sum(channel.errors for channel in self._channels.values())

    @property
    def failing(self) -> bool:
        return any(channel.failing for channel in self._channels.values())

    def take(self, channel: LogChannel, record: Entry) -> bool:
        if self.closed or len(self._queue) >= self._max_queue:
            return False
        self._push((channel, record))
        return True

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until what is queued by now is on disk, or counted as lost; False if that takes longer."""
        if self._thread is None and not self._queue:
            return True
        written = threading.Event()
        self._push(written)
        self._hurry.set()
        return written.wait(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Write what is queued, end the thread, close the files. A later line counts as dropped."""
        self.closed = True
        thread = self._thread
        if self.flush(timeout) and thread is not None:
            self._wake.set()
            thread.join(timeout)

    def _push(self, item: tuple[LogChannel, Entry] | threading.Event) -> None:
        self._queue.append(item)
        if self._thread is None:
            self._start()
        elif self._asleep:
            self._wake.set()

    def _start(self) -> None:
        with self._changing:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no thread to be had now: the lines wait in the queue
                self._thread = None
            else:
                atexit.register(self.close)

    def _run(self) -> None:
        while True:
            idle = self._nap()
            if self._queue:
                self._hurry.wait(self._linger)  # the lines of the next moment go to disk with this one
                self._hurry.clear()
                self._drain()
            elif (idle or self.closed) and self._signed_off():
                return

    def _nap(self) -> bool:
        """Wait for a line; True if none came."""
        self._wake.clear()
        self._asleep = True  # said before the last look at the queue, or a line could be overlooked
        idle = not self._queue and not self.closed and not self._wake.wait(self._idle)
        self._asleep = False
        return idle

    def _drain(self) -> None:
        batches: dict[LogChannel, list[Entry]] = {}
        waiting: list[threading.Event] = []
        for item in [self._queue.popleft() for _ in range(len(self._queue))]:
            if isinstance(item, threading.Event):
                waiting.append(item)
            else:
                batches.setdefault(item[0], []).append(item[1])
        for channel, records in batches.items():
            channel.store(records)
        for written in waiting:
            written.set()

    def _signed_off(self) -> bool:
        with self._changing:
            self._thread = None  # said before the last look at the queue, as above
            if self._queue:
                self._thread = threading.current_thread()
                return False
            atexit.unregister(self.close)
        for channel in list(self._channels.values()):
            channel.file.close()
        return True
