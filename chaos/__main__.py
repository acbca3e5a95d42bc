"""`python -m chaos <goal>`: breaks a served platform and checks what it promised; everything stays on 127.0.0.1."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos.budget import budget
from chaos.crosstalk import crosstalk
from chaos.disk import disk
from chaos.goal import FAILED, LACKS_A_TOOL, PASSED, LacksTool, Run
from chaos.kill import kill
from chaos.outage import outage
from chaos.postgres import postgres
from chaos.replay import replay
from chaos.storm import storm
from chaos.streams import streams
from chaos.table import publish

# In order of value.
GOALS: dict[str, Callable[[Run], None]] = {
    "storm": storm,
    "outage": outage,
    "streams": streams,
    "crosstalk": crosstalk,
    "kill": kill,
    "budget": budget,
    "postgres": postgres,
    "disk": disk,
    "replay": replay,
}
LONGEST_SECONDS = 900


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("goal", choices=[*GOALS, "all"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="the result; with `all` a folder for them")
    parser.add_argument(
        "--publish", action="store_true", help="put the result into chaos/results and its README"
    )
    parser.add_argument("--short", action="store_true", help="some seconds in place of minutes")
    return parser.parse_args()


def main() -> int:
    wanted = arguments()
    if wanted.publish and wanted.short:
        sys.exit("A short run proves too little to be published.")
    end_in_order()
    if wanted.goal != "all":
        return attempt(wanted.goal, wanted, wanted.json)
    codes = [attempt(goal, wanted, wanted.json and wanted.json / f"{goal}.json") for goal in GOALS]
    return FAILED if FAILED in codes else max(codes)


def attempt(goal: str, wanted: argparse.Namespace, file: Path | None) -> int:
    """One goal from a new folder to its verdict: 0 passed, 1 failed, 77 where the machine lacks a tool."""
    signal.alarm(LONGEST_SECONDS)
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
        run = Run(goal, wanted.seed, wanted.short, Path(folder))
        run.say(f"seed {wanted.seed}")
        try:
            GOALS[goal](run)
        except LacksTool as lack:
            run.say(f"not run: {lack}")
            return LACKS_A_TOOL
        result = run.result()
    print(json.dumps(result, indent=1))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    if wanted.publish:
        publish(result)
    run.say("passed" if result["passed"] else f"FAILED: {result['problems']}")
    return PASSED if result["passed"] else FAILED


def end_in_order() -> None:
    """However this ends, its servers end with it; and it ends."""

    def give_up(number: int, _: Any) -> None:
        sys.exit(f"Stopped by {signal.Signals(number).name}.")

    signal.signal(signal.SIGTERM, give_up)
    signal.signal(signal.SIGALRM, give_up)


if __name__ == "__main__":
    sys.exit(main())
