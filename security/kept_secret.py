"""A random secret of this installation, made once and kept in a file that only its owner can read."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def kept_secret(path: Path) -> bytes:
    """The secret in the file; the first process that asks makes it, and all that ask at once get the same. Raises OSError."""
    with suppress(FileNotFoundError):
        return path.read_bytes()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    _write(draft, secrets.token_hex(32).encode())
    try:
        with suppress(FileExistsError):  # another process was quicker, and its secret counts
            os.link(draft, path)
    finally:
        draft.unlink()
    return path.read_bytes()


def _write(path: Path, secret: bytes) -> None:
    """On the disk as a whole, before it gets the name under which others look for it."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(file, secret)
        os.fsync(file)
    finally:
        os.close(file)
