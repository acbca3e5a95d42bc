"""kill: `kill -9` at random moments under load; what was acknowledged is there, what was cut off is known to be unknown."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from random import Random

from chaos.books import copy_of, integrity, open_rows, read_books
from chaos.check import open_problems, reply_problems
from chaos.goal import Problem, Run
from chaos.judge import judge, landed
from chaos.load import Asked, Load, ask_once
from chaos.plan import WARM, Plan
from chaos.platform import Platform
from tests.upstream import UpstreamProcess

CALLERS, FAULT_RATE, LATENCY = 24, 0.1, 0.03
READY_SECONDS = 3.0
DEADLINE = 10.0
# Seconds and replies; many lives are much shorter, so that starts are cut off as well.
LONG_LIFE, SHORT_LIFE = (6.0, 400), (4.0, 100)
FAULTS = (
    *(
        {"name": name, "delay": "0.2s"}
        for name in ("rate_limited", "unavailable", "reset_before", "cut_body")
    ),
    *("garbage", "blocked_answer", "empty", "other_model"),
)


def kill(run: Run) -> None:
    kills = 4 if run.short else 100
    chance = Random(run.seed)
    with UpstreamProcess(seed=run.seed, latency=LATENCY) as upstream:
        upstream.control(menu=FAULTS, fault_rate=FAULT_RATE)
        platform = Platform(run.folder / "platform", upstream.url, LLM_TIMEOUT_SECONDS=str(DEADLINE))
        load = Load(
            [platform.port], CALLERS, Plan(run.seed), timeout=DEADLINE + 20, name="kill", rest=run.rest
        )
        with platform:
            loop(run, platform, load, kills, chance)
            load.land()
            last = ask_once(platform.port, "last", WARM)
            books, calls = read_books(platform.ledger_url), landed(upstream)
            run.demand(platform.end() == 0, "the platform did not end cleanly", platform.last_words())
    judge(run, [*load.asked, last], books, calls)
    run.found(integrity(platform.data_dir / "ledger.db"))
    states = Counter(
        row["state"] if row["status"] or row["state"] == "open" else "given up" for row in books.rows
    )
    run.figures |= {"rows": dict(states), "calls": len(calls)} | _counts(load.asked)


def loop(run: Run, platform: Platform, load: Load, kills: int, chance: Random) -> None:
    """Lives that end by SIGKILL, and one more that goes on."""
    starts: list[float] = []
    with load:
        for number in range(1, kills + 1):
            _live(load, chance, *(SHORT_LIFE if run.short else LONG_LIFE))
            platform.kill()
            load.land()
            _autopsy(run, platform, load)
            starts.append(platform.start())
            _recovered(run, platform, starts[-1])
            load.go_on()
            if number % 10 == 0 or kills < 10:
                run.say(
                    f"killed {number} of {kills} times, {load.answered:,} replies, ready in {starts[-1]:.2f} s"
                )
        time.sleep(1.0)
    run.figures |= {
        "kills": kills,
        "callers": CALLERS,
        "ready_seconds": {"median": round(sorted(starts)[kills // 2], 2), "max": round(max(starts), 2)},
    }


def _live(load: Load, chance: Random, longest: float, most: int) -> None:
    """Until a moment after the start, or until so many replies more: the first seconds hold few misses."""
    until = time.monotonic() + (chance.uniform(0, 2) if chance.random() < 0.4 else longest)
    replies = load.answered + chance.randrange(1, most)
    while time.monotonic() < until and load.answered < replies:
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.05))


def _autopsy(run: Run, platform: Platform, load: Load) -> None:
    """What the dead process left on disk, before anybody repairs it."""
    left = copy_of(platform.data_dir / "ledger.db", run.folder / "autopsy")
    if not left.exists():
        run.demand(not load.answered, "replies, and no ledger on disk")
        return
    run.found(integrity(left))
    if load.answered:
        run.found(_marked("at the kill: ", reply_problems(load.asked, read_books(f"sqlite:///{left}").rows)))


def _recovered(run: Run, platform: Platform, seconds: float) -> None:
    """Ready in time, and nothing of an earlier life still open."""
    in_time = seconds <= run.within(READY_SECONDS)
    run.demand(in_time, "not ready in time", f"  {seconds:.2f} s, {platform.last_words()}")
    left = open_rows(platform.ledger_url)
    run.found(open_problems(left, "a row that is open after the restart"))


def _marked(when: str, problems: Iterator[Problem]) -> Iterator[Problem]:
    return (Problem(when + problem.kind, problem.details) for problem in problems)


def _counts(asked: list[Asked]) -> dict[str, object]:
    replies = [ask.reply for ask in asked if ask.reply is not None]
    return {
        "asks": len(asked),
        "acknowledged": len(replies),
        "cut_off": dict(Counter(ask.trouble for ask in asked if ask.reply is None)),
        "statuses": dict(sorted(Counter(str(reply.status) for reply in replies).items())),
        "cache": dict(Counter(reply.cache_status for reply in replies).most_common()),
    }
