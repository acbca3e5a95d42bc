"""Which processes on this machine still live: each holds a lock on a file of its own under DATA_DIR."""

from __future__ import annotations

import contextlib
import fcntl
import uuid
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

    def dead(self) -> list[str]:
        """The names of those whose lock nobody holds any more."""
        names = [path.stem for path in self._folder.glob("*.lock")]
        return [name for name in names if name != self.name and self._is_dead(name)]

    def _is_dead(self, name: str) -> bool:
        try:
            with self._place(name).open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False  # somebody else has buried it
        except BlockingIOError:
            return False
        return True

    def bury(self, name: str) -> None:
        """Forget a dead instance, once nothing of it is left to be done."""
        with contextlib.suppress(OSError):
            self._place(name).unlink(missing_ok=True)

    def leave(self) -> None:
        if self._file is not None:
            self.bury(self.name)
            self._file.close()
            self._file = None

    def _place(self, name: str) -> Path:
        return self._folder / f"{name}.lock"
