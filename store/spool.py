"""Rows that wait on this machine's disk while the database is away: written and fsynced, drained once each."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import orjson

from store.rows import row_from
from store.writes import Write

log = logging.getLogger("llm_platform")

BATCH = 200
TOTALS = "totals.json"


class Spool:
    """The spool files of one instance: the one being written, and those that wait to be drained."""

    def __init__(self, data_dir: str | Path, instance: str) -> None:
        self._folder = Path(data_dir) / "spool"
        self._instance = instance
        self._file: int | None = None
        self._number = self._sealed = 0

    def append(self, writes: Sequence[Write]) -> None:
        """On disk when it returns. Raises OSError, and then nothing of it is there."""
        lines = b"".join(line_of(write) for write in writes)
        file = self._open()
        end = os.lseek(file, 0, os.SEEK_END)
        try:
            _write_all(file, lines)
            os.fsync(file)
        except OSError:
            os.ftruncate(file, end)
            raise

    def _open(self) -> int:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._number += 1
            path = self._folder / f"{self._instance}-{self._number:06d}.jsonl"
            self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
            _fsync_folder(self._folder)
        return self._file

    def keep_totals(self, totals: Mapping[str, int]) -> None:
        """What each tenant has spent, for a process that starts while the database is still away. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f"totals.{self._instance}"
        part.write_bytes(orjson.dumps(dict(totals)))
        part.replace(self._folder / TOTALS)

    def kept_totals(self) -> dict[str, int]:
        """Those totals, with everything that has been spooled since."""
        file = self._folder / TOTALS
        totals: dict[str, int] = orjson.loads(file.read_bytes()) if file.exists() else {}
        for path in self._folder.glob("*.jsonl"):
            for write in (write for batch in batches(path) for write in batch):
                totals[write.row.tenant] = totals.get(write.row.tenant, 0) + write.spent_nano
        return totals

    def rejected(self) -> int:
        """Files with lines that could not be used and wait for a person."""
        return len(list(self._folder.glob("*.rejected")))

    def seal(self) -> None:
        """Later rows go into a new file."""
        if self._file is not None:
            os.close(self._file)
            self._file, self._sealed = None, self._number

    def waiting(self, instances: Iterable[str]) -> list[Path]:
        """Sealed files of these instances (and of this one), oldest first."""
        names = set(instances)
        return [path for path in sorted(self._folder.glob("*.jsonl")) if self._is_waiting(path, names)]

    def _is_waiting(self, path: Path, instances: set[str]) -> bool:
        """Of one's own files the sealed ones: a newer one may be there before `append` has written to it."""
        name, _, number = path.stem.rpartition("-")
        return name in instances or (name == self._instance and int(number) <= self._sealed)


def batches(path: Path) -> Iterator[list[Write]]:
    """The writes of a spool file, in order, some hundred at a time; what is none of ours is put aside."""
    with path.open("rb") as file:
        # A line without its end was cut off by a crash, so it was never acknowledged.
        lines = (line for line in file if line.endswith(b"\n"))
        while some := list(itertools.islice(lines, BATCH)):
            yield [write for line in some if (write := _write_from(line, path)) is not None]


def put_aside(line: bytes, path: Path) -> None:
    """Keep what cannot be written for a person to look at, so that it holds up nothing else."""
    log.error("a line of the spool cannot be used; it is kept in %s.rejected", path.name)
    with path.with_name(f"{path.name}.rejected").open("ab") as file:
        file.write(line)


def line_of(write: Write) -> bytes:
    return orjson.dumps({"kind": write.kind, "row": asdict(write.row)}, option=orjson.OPT_APPEND_NEWLINE)


def _write_from(line: bytes, path: Path) -> Write | None:
    try:
        stored = orjson.loads(line)
        return Write(row_from(stored["row"]), stored["kind"])
    except (ValueError, KeyError, TypeError):
        put_aside(line, path)
        return None


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
