"""cl100k_base from its file on disk; the network is never asked."""

from __future__ import annotations

import functools
import hashlib
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tiktoken import Encoding

# The SHA-1 of the address that tiktoken would fetch is the name under which it looks for the file.
CL100K_FILE = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
CL100K_SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
# How cl100k_base cuts a text before it merges bytes; part of the encoding's definition.
CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


@functools.cache
def load_encoding(cache_dir: str) -> Encoding | None:
    """cl100k_base from its file, or None. tiktoken's own loader would go to the network for a missing or bad file."""
    file = Path(cache_dir) / CL100K_FILE
    data = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(data).hexdigest() != CL100K_SHA256:
        return None
    from tiktoken import Encoding

    ranks = {b64decode(token): int(rank) for token, rank in map(bytes.split, data.splitlines())}
    return Encoding("cl100k_base", pat_str=CL100K_PATTERN, mergeable_ranks=ranks, special_tokens={})
