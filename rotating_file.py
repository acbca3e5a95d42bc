"""A log file that rotates by size, holds whole lines only, and survives what happens to disks and folders."""

import contextlib
import os
import stat
import threading
from pathlib import Path
from weakref import WeakValueDictionary

_TAIL = 65_536
_path_locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
_path_locks_lock = threading.Lock()


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
