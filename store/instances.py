"""Which processes on this machine still live: each holds a lock on a file of its own under DATA_DIR."""

from __future__ import annotations

import contextlib
import fcntl
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO


class Instance:
    """This process (or this house, where a process has several) among those that share DATA_DIR."""

    def __init__(self, data_dir: str | Path) -> None:
        self.name = uuid.uuid4().hex
        self._folder = Path(data_dir) / "instances"
        self._file: IO[str] | None = None

    def enter(self) -> None:
        """Take one's lock; it is let go by whatever ends the process. Raises OSError."""
        self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.mkdir(exist_ok=True)
        while self._file is None:
            file = self._place(self.name).open("w")
            fcntl.flock(file, fcntl.LOCK_EX)
            # Between the two lines above another process may have taken us for dead.
            if self._place(self.name).exists():
                self._file = file
            else:
                file.close()

    def claim_dead(self) -> dict[str, IO[str]]:
        """Those whose lock nobody holds any more; now we hold it, so that nobody else takes them over."""
        names = [path.stem for path in self._folder.glob("*.lock") if path.stem != self.name]
        claims = {name: self._claim(name) for name in names}
        return {name: file for name, file in claims.items() if file is not None}

    def _claim(self, name: str) -> IO[str] | None:
        try:
            file = self._place(name).open()
        except FileNotFoundError:
            return None  # somebody else has buried it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def bury(self, claims: Mapping[str, IO[str]]) -> None:
        """Forget dead instances, now that nothing of them is left to be done."""
        for name in claims:
            with contextlib.suppress(OSError):
                self._place(name).unlink(missing_ok=True)

    def leave(self) -> None:
        """Let go of one's lock. Its file stays: whoever comes next looks for what this process has left undone."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _place(self, name: str) -> Path:
        return self._folder / f"{name}.lock"
