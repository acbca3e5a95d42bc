"""How far the token estimate is from cl100k_base: python benchmarks/token_estimate.py.

Texts are cut from what is installed (docstrings, documents, licences, code, JSON), made from a seed (numbers,
logs) or written by hand (languages). The weights were fitted on texts whose SHA-256 is even; the table shows
the texts whose SHA-256 is odd, and all of the hand-written ones, on which no weight was fitted.
"""

from __future__ import annotations

import ast
import json
import os
import random
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from hashlib import sha256
from math import ceil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# First, because this script's own name would otherwise shadow the module that it measures.
sys.path.insert(0, str(ROOT))

Sample = tuple[str, str]

LENGTHS = (60, 150, 400, 1500, 4000)
DOCUMENTS = (".md", ".rst", ".txt", "METADATA", "LICENSE")
MARKUP = (".json", ".js", ".css", ".html", ".h", ".pyi")
LARGEST_FILE = 200_000


def main() -> int:
    folder = Path(os.environ.get("TIKTOKEN_CACHE_DIR") or ROOT / ".tiktoken")
    from benchmarks.prime_tokenizer import is_primed

    if not is_primed(folder):
        print(f"The tokenizer file is not in {folder}: run `make tokenizer` first.", file=sys.stderr)
        return 1
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    import tiktoken

    encoding = tiktoken.get_encoding("cl100k_base")
    print_table(measure(lambda text: len(encoding.encode_ordinary(text))))
    return 0


def measure(count: Callable[[str], int]) -> dict[str, list[float]]:
    """Relative errors of the estimate by kind of text."""
    from token_estimate import estimate_tokens

    errors: dict[str, list[float]] = {}
    for kind, text in dict.fromkeys(samples()):
        true = count(text)
        errors.setdefault(kind, []).append((estimate_tokens(text) - true) / true)
    return errors


def print_table(errors: dict[str, list[float]]) -> None:
    print("| kind | texts | mean error | p95 | worst | bias |")
    print("|---|---|---|---|---|---|")
    for kind, found in [*errors.items(), ("all", [error for one in errors.values() for error in one])]:
        sizes = sorted(map(abs, found))
        mean, bias = sum(sizes) / len(sizes), sum(found) / len(found)
        numbers = (mean, sizes[ceil(0.95 * len(sizes)) - 1], sizes[-1])
        cells = " | ".join(f"{number:.1%}" for number in numbers)
        print(f"| {kind} | {len(found)} | {cells} | {bias:+.1%} |")


def samples() -> Iterator[Sample]:
    from benchmarks.token_texts import LANGUAGES

    held_out = (sample for sample in _installed(random.Random(7)) if _is_odd(sample[1]))
    yield from (sample for sample in held_out if sample[1].strip())
    for group, languages in LANGUAGES.items():
        yield from ((group, text) for texts in languages.values() for text in texts)


def _is_odd(text: str) -> bool:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()[0] % 2 == 1


def _installed(chance: random.Random) -> Iterator[Sample]:
    packages, standard = Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("stdlib"))
    sources = chance.sample(_files(packages, (".py",)) + _files(standard, (".py",)), 1200)
    for file in sources:
        yield from _from_source(file.read_text("utf-8", "replace"), chance)
    for file in _files(packages, DOCUMENTS):
        yield from _windows("documents, licences", file, chance)
    for file in chance.sample(_files(packages, MARKUP), 200):
        yield from _windows("JSON, JS, CSS, HTML, C", file, chance)
    yield from (("numbers, logs", _numbers(turn, chance)) for turn in range(400))


def _files(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    found = (file for file in folder.rglob("*") if file.suffix in endings or file.name in endings)
    inside = (
        file for file in found if folder == file or "site-packages" not in file.relative_to(folder).parts
    )
    return sorted(file for file in inside if file.is_file() and 100 < file.stat().st_size < LARGEST_FILE)


def _from_source(source: str, chance: random.Random) -> Iterator[Sample]:
    for length in chance.choices(LENGTHS, k=2):
        yield "code", _window(source, length, chance)
    docstrings = [text for text in _docstrings(source) if len(text) >= 20]
    for text in chance.sample(docstrings, min(2, len(docstrings))):
        yield "docstrings", text
        sentences = [one for one in re.split(r"(?<=[.!?])\s+", text) if 20 <= len(one) <= 200]
        yield from (("sentences, 20 to 200 characters", one) for one in sentences[:1])


def _docstrings(source: str) -> list[str]:
    try:
        nodes = ast.walk(ast.parse(source))
    except (SyntaxError, ValueError):
        return []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return [ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented)]


def _windows(kind: str, file: Path, chance: random.Random) -> Iterator[Sample]:
    text = file.read_text("utf-8", "replace")
    yield from ((kind, _window(text, length, chance)) for length in chance.choices(LENGTHS, k=2))


def _window(text: str, length: int, chance: random.Random) -> str:
    start = chance.randrange(max(1, len(text) - length))
    return text[start : start + length]


def _numbers(turn: int, chance: random.Random) -> str:
    lines = range(chance.randrange(2, 20))
    if turn % 4 == 0:
        return "\n".join(f"{chance.randrange(10**6)},{chance.random() * 1000:.2f},{turn}" for _ in lines)
    if turn % 4 == 1:
        rows = [
            {"id": chance.randrange(10**6), "price": round(chance.random(), 3), "ok": True} for _ in lines
        ]
        return json.dumps(rows, indent=chance.choice((None, 2)))
    if turn % 4 == 2:
        return "\n".join(chance.randbytes(16).hex() for _ in lines)
    stamp = "2026-11-{:02d}T10:{:02d}:00Z INFO request served status=200 bytes={}"
    return "\n".join(stamp.format(line % 28 + 1, line, chance.randrange(10**5)) for line in lines)


if __name__ == "__main__":
    sys.exit(main())
