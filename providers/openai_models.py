"""What OpenAI's own models take; other models behind the same protocol take the older and simpler set."""

from __future__ import annotations

import re

_OPENAIS = re.compile(r"(?:ft:)?(?:gpt-(?!oss|neo|j\b)|o\d|chatgpt-)")
# Those that reason unless told otherwise refuse a temperature; these do not.
_SAMPLED = re.compile(r"(?:ft:)?(?:gpt-[34]|chatgpt-|gpt-5\.[124](?:-mini|-nano|-\d|$)|gpt-5.*-chat)")


def is_openais(model: str) -> bool:
    """Whether it is one that OpenAI serves; `gpt-oss` and its like run on servers of other people."""
    return _OPENAIS.match(model) is not None


def takes_temperature(model: str) -> bool:
    return not is_openais(model) or _SAMPLED.match(model) is not None
