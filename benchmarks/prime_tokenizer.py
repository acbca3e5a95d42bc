"""Lay down tiktoken's cl100k_base file without its download: python benchmarks/prime_tokenizer.py --out DIR.

tiktoken fetches the file on first use, without a timeout. The npm package js-tiktoken (MIT) carries the same
ranks in another notation; this script writes them as the file that tiktoken looks for in TIKTOKEN_CACHE_DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path

PACKAGE = "js-tiktoken@1.0.21"
MEMBER = "package/dist/ranks/cl100k_base.js"
# The SHA-1 of the address that tiktoken would fetch, which is how it names the file in its cache folder,
CACHE_NAME = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
# and the digest that tiktoken demands of the content (cl100k_base in tiktoken_ext/openai_public.py).
DIGEST = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
NPM_TIMEOUT_SECONDS = 120


class PrimingError(Exception):
    """The file could not be made; the message is one sentence with the next step."""


def main() -> int:
    arguments = _arguments()
    target = arguments.out / CACHE_NAME
    try:
        if is_primed(arguments.out):
            print(f"{target} is there already.")
            return 0
        prime(arguments.source.read_text("utf-8") if arguments.source else packed_ranks(), arguments.out)
    except (PrimingError, OSError, UnicodeDecodeError) as error:
        print(f"The tokenizer file was not made: {error}", file=sys.stderr)
        return 1
    print(f"{target} is ready: start the platform with TIKTOKEN_CACHE_DIR={arguments.out}.")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make tiktoken's cl100k_base file from js-tiktoken's ranks.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="becomes TIKTOKEN_CACHE_DIR")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE.js", help="ranks at hand, no npm")
    return parser.parse_args()


def is_primed(folder: Path) -> bool:
    """Whether the folder holds the right file: the check that must come before tiktoken.get_encoding."""
    file = folder / CACHE_NAME
    return file.is_file() and sha256(file.read_bytes()).hexdigest() == DIGEST


def prime(source: str, folder: Path) -> None:
    """Write the file, whole or not at all."""
    content = unpack(source)
    if sha256(content).hexdigest() != DIGEST:
        raise PrimingError(f"its digest is not the one that tiktoken demands, use the ranks of {PACKAGE}.")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{CACHE_NAME}.{os.getpid()}.part"
    part.write_bytes(content)
    part.replace(folder / CACHE_NAME)


def packed_ranks() -> str:
    """The text of js-tiktoken's rank file, from npm."""
    with tempfile.TemporaryDirectory() as folder:
        _run_npm(folder)
        archive = next(Path(folder).glob("*.tgz"), None)
        if archive is None:
            raise PrimingError(f"npm gave no archive, try `npm pack {PACKAGE}` by hand.")
        return _member(archive)


def _member(archive: Path) -> str:
    try:
        with tarfile.open(archive) as packed:
            member = packed.extractfile(MEMBER)
            return member.read().decode("utf-8") if member else ""
    except (KeyError, tarfile.TarError):
        raise PrimingError(f"npm's archive holds no {MEMBER}, use {PACKAGE}.") from None


def _run_npm(folder: str) -> None:
    try:
        subprocess.run(
            ["npm", "pack", PACKAGE, "--silent"],
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=NPM_TIMEOUT_SECONDS,
        )
    except FileNotFoundError:
        raise PrimingError("npm is missing, install it or pass the ranks with --from FILE.js.") from None
    except subprocess.TimeoutExpired:
        raise PrimingError(f"npm gave nothing within {NPM_TIMEOUT_SECONDS} s, check the network.") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise PrimingError(f"`npm pack {PACKAGE}` failed ({reason}), check the network.") from None


def unpack(source: str) -> bytes:
    """js-tiktoken's packed ranks as the lines "token rank" of tiktoken's own format."""
    packed = re.search(r'"?bpe_ranks"?\s*:\s*("(?:[^"\\]|\\.)*")', source)
    if packed is None:
        raise PrimingError("the source has no bpe_ranks, pass dist/ranks/cl100k_base.js of js-tiktoken.")
    tokens: dict[int, str] = {}
    try:
        for line in json.loads(packed[1]).splitlines():
            _, first, *names = line.split(" ")  # "! 0 IQ== Ig== ...": ranks count up from the first number
            tokens.update(enumerate(names, int(first)))
    except ValueError:
        raise PrimingError(f"bpe_ranks cannot be read, use the ranks of {PACKAGE}.") from None
    return "".join(f"{tokens[rank]} {rank}\n" for rank in sorted(tokens)).encode()


if __name__ == "__main__":
    sys.exit(main())
