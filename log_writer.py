"""Writes JSON lines to rotating files on a thread of its own, so that no request waits for a disk."""

import atexit
import contextlib
import json
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast
from weakref import WeakValueDictionary

import orjson

from security.redaction import Redact, clean
from security.redaction import redact as redact_secrets

Record = dict[str, object]
Entry = Record | Callable[[], Record]

_TAIL = 65_536
# What LineMaker keeps in mind: so many words of at most this length.
_WORDS, _WORD_LENGTH = 4096, 128
_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_DATETIME
_PLAIN_KINDS = frozenset({int, float, bool, type(None), datetime})
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
_path_locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
_path_locks_lock = threading.Lock()


def json_line(record: Mapping[str, object], redact: Redact = redact_secrets) -> bytes:
    """One line of ASCII: nothing in a record can end it, hide in it or forge another."""
    text = _encode(clean(record, redact))
    return text.replace("\x7f", "\\u007f").encode("ascii") + b"\n"


def _moment(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    raise TypeError


class LineMaker:
    """json_line, quicker: most texts of a line are the same few words, and known to hold no secret."""

    def __init__(self, redact: Redact = redact_secrets) -> None:
        self._redact = redact
        self._harmless: set[str] = set()

    def line(self, record: Mapping[str, object]) -> bytes:
        with contextlib.suppress(orjson.JSONEncodeError):  # a number beyond 64 bits
            if self._plain(record):
                line = orjson.dumps(record, _moment, _OPTIONS)
                if line.isascii() and b"\x7f" not in line:
                    return line
        return json_line(record, self._redact)

    def _plain(self, record: Mapping[str, object], nested: bool = False) -> bool:
        """Whether the record can be written as it stands: short words without secrets, numbers, moments."""
        # The names of a record's own fields stand in our code; those inside a field may come from a caller.
        if nested and not all(name in self._harmless or self._is_harmless(name) for name in record):
            return False
        for value in record.values():
            kind = value.__class__
            if kind is str:
                if value not in self._harmless and not self._is_harmless(cast(str, value)):
                    return False
            elif kind is dict and not nested:
                if not self._plain(cast(Record, value), nested=True):
                    return False
            elif kind is list and not nested:
                if not all(
                    item.__class__ is dict and self._plain(item, nested=True)
                    for item in cast(list[Any], value)
                ):
                    return False
            elif kind not in _PLAIN_KINDS:
                return False
        return True

    def _is_harmless(self, text: str) -> bool:
        if text.__class__ is not str or len(text) > _WORD_LENGTH or clean(text, self._redact) != text:
            return False
        if len(self._harmless) >= _WORDS:
            self._harmless.clear()
        self._harmless.add(text)
        return True


class RotatingFile:
    """A log file and its numbered backups: whole lines only, reopened if moved or deleted.

    No file exceeds `max_bytes`, unless a single line does. Any number of objects in one process may
    write to the same path; several processes may not.
    """

    def __init__(self, path: Path, max_bytes: int, backups: int) -> None:
        self._path, self._max_bytes, self._backups = path, max_bytes, backups
        with _path_locks_lock:
            self._lock = _path_locks.setdefault(str(path), threading.Lock())
        self._fd = -1
        self.failing = False

    def append(self, lines: list[bytes]) -> int:
        """Open the file and write the lines; returns how many of them a failure has lost."""
        done = 0
        with self._lock:
            try:
                size = self._ready()
                while done < len(lines):
                    fitting = self._fitting(lines, done, size)
                    if fitting == done:
                        size = self._rotate()
                        continue
                    size += self._write(b"".join(lines[done:fitting]))
                    done = fitting
                self.failing = self.failing and not lines
            except (OSError, ValueError):  # ValueError: a path that holds a NUL
                self.failing = True
                self._leave_whole_lines()
        return len(lines) - done

    def close(self) -> None:
        with self._lock:
            self._shut()

    def _ready(self) -> int:
        """The size of the open file, which is the one that the path names."""
        if self._fd < 0 or self._moved():
            self._shut()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
            self._mend()
        return os.fstat(self._fd).st_size

    def _moved(self) -> bool:
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            return True
        return not os.path.samestat(named, os.fstat(self._fd))

    def _fitting(self, lines: list[bytes], start: int, size: int) -> int:
        """The end of the run of lines from `start` that still fits; an empty file takes at least one."""
        for index in range(start, len(lines)):
            if size and size + len(lines[index]) > self._max_bytes:
                return index
            size += len(lines[index])
        return len(lines)

    def _write(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        return len(data)

    def _rotate(self) -> int:
        self._shut()
        names = [self._path, *(Path(f"{self._path}.{number}") for number in range(1, self._backups + 1))]
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)
        if not self._backups:
            self._path.unlink(missing_ok=True)
        self._ready()
        return 0  # what is no regular file stays as it is, and has no size to keep

    def _mend(self) -> None:
        """Cut off half a line that a full disk or a killed process has left."""
        while stat.S_ISREG((status := os.fstat(self._fd)).st_mode) and status.st_size:
            start = max(0, status.st_size - _TAIL)
            os.lseek(self._fd, start, os.SEEK_SET)
            tail = os.read(self._fd, _TAIL)
            if tail.endswith(b"\n"):
                return
            os.ftruncate(self._fd, start + tail.rfind(b"\n") + 1)

    def _leave_whole_lines(self) -> None:
        with contextlib.suppress(OSError):
            if self._fd >= 0:
                self._mend()
        self._shut()  # so that the next write opens anew, and mends what could not be mended now

    def _shut(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):  # a late EIO on close has no line of ours to save
                os.close(fd)


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
