"""`python -m benchmarks`: prints every figure of the README as Markdown; everything stays on 127.0.0.1."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cached import cached
from benchmarks.first_piece import first_piece
from benchmarks.growth import growth
from benchmarks.keyed import keyed
from benchmarks.page import FIGURES, write_readme
from benchmarks.rounds import QUICK, WHOLE
from benchmarks.start import start
from benchmarks.table import machine, markdown
from benchmarks.uncached import uncached

LONGEST_SECONDS = 900


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="40 seconds in place of five minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every single reading besides")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    return parser.parse_args()


def main() -> None:
    wanted = arguments()
    end_in_order()
    began, load = time.monotonic(), os.getloadavg()[0]
    effort = QUICK if wanted.quick else WHOLE
    with tempfile.TemporaryDirectory() as log_dir:
        parts = (cached, keyed, uncached, first_piece, growth)
        figures = [figure for part in parts for figure in part(effort, log_dir)]
        starts = start(effort, log_dir)
    facts = machine(time.monotonic() - began, load, wanted.quick)
    block = markdown(facts, figures, starts)
    print(block)
    if wanted.json:
        readings = {"machine": facts, "figures": [asdict(figure) for figure in figures], "starts": starts}
        wanted.json.write_text(json.dumps(readings, indent=1), "utf-8")
    if wanted.write:
        write_readme(block, FIGURES)


def end_in_order() -> None:
    """However this ends, its servers end with it; and it ends."""

    def give_up(number: int, _: Any) -> None:
        sys.exit(f"Stopped by {signal.Signals(number).name}.")

    signal.signal(signal.SIGTERM, give_up)
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LONGEST_SECONDS)


if __name__ == "__main__":
    main()
