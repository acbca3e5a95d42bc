"""Embeddings on their way through the house: one text each, JSON of base64 of little-endian 32-bit floats."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from typing import Any

WIDTH = 4


def join_vectors(vectors: Sequence[Any]) -> str:
    """The text of a Reply. A vector may come packed or as numbers; raises a ValueError where it is neither."""
    return json.dumps([_packed(vector) for vector in vectors])


def _packed(vector: Any) -> str:
    if isinstance(vector, str):
        raw = base64.b64decode(vector, validate=True)
    else:
        raw = pack([float(number) for number in vector])
    if not raw or len(raw) % WIDTH:
        raise ValueError("no whole number of floats")
    return base64.b64encode(raw).decode()


def pack(numbers: Sequence[float]) -> bytes:
    try:
        return struct.pack(f"<{len(numbers)}f", *numbers)
    except OverflowError as error:
        raise ValueError("larger than 32 bits can hold") from error
