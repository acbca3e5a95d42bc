"""disk: DATA_DIR on a disk of 1 MB that runs full; never a 200 without a row, and no call that cannot be written down."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from chaos.books import integrity, open_rows, read_books
from chaos.check import MARKER
from chaos.goal import LacksTool, Run
from chaos.judge import judge, landed
from chaos.load import Asked, Load, ask_once
from chaos.plan import WARM, Plan, Wanted
from chaos.platform import Platform
from tests.upstream import UpstreamProcess

SIZE = 1024 * 1024
PAGE = 4096
REFUSAL = "ledger_unavailable"
RECOVERY_SECONDS = 5.0
CALLERS = 8
MOST_SERVED_WHEN_FULL = 200


class SmallDisk:
    """A tmpfs with a ballast file that takes all the room but what is to be left."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._ballast = place / "ballast"

    @contextmanager
    def mounted(self) -> Iterator[SmallDisk]:
        self.place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0777", "tmpfs", str(self.place)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            raise LacksTool("it mounts a tmpfs, which takes root and mount(8)") from None
        try:
            yield self
        finally:
            subprocess.run(["umount", "-l", str(self.place)], check=False, capture_output=True)

    def fill(self, free_pages: int = 0) -> None:
        """Leave so many pages and no more."""
        with self._ballast.open("ab") as ballast:
            while True:
                try:
                    os.write(ballast.fileno(), b"\0" * PAGE)
                except OSError:
                    break
        size = self._ballast.stat().st_size
        os.truncate(self._ballast, max(0, size - free_pages * PAGE))

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


def disk(run: Run) -> None:
    with (
        SmallDisk(run.folder / "small").mounted() as small,
        UpstreamProcess(seed=run.seed, latency=0.01) as upstream,
    ):
        place = small.place / "data"
        platform = Platform(run.folder / "platform", upstream.url, data_dir=place, LLM_TIMEOUT_SECONDS="10")
        goal = Disk(run, small, platform, upstream)
        with ExitStack() as stack:
            stack.push(platform.__exit__)
            goal.starts_on_a_full_disk()
            goal.page_by_page()
            goal.under_load()
            goal.ends_well()


class Disk:
    """The acts of this goal; each asks, and keeps what it asked."""

    def __init__(self, run: Run, small: SmallDisk, platform: Platform, upstream: UpstreamProcess) -> None:
        self.run, self.small, self.platform, self.upstream = run, small, platform, upstream
        self.asked: list[Asked] = []
        self.recoveries: list[float] = []

    def ask(self, marker: str) -> Asked:
        asked = ask_once(self.platform.port, f"disk-{len(self.asked)}", Wanted(marker, "text", 5))
        self.asked.append(asked)
        return asked

    def starts_on_a_full_disk(self) -> None:
        self.small.fill()
        try:
            self.platform.start()
            self._refuses("full-at-start")
        except RuntimeError as ended:
            self.run.demand(False, "no start on a full disk", str(ended))
            self.platform.kill()
            self.small.free()
            self.platform.start()
        self._recovers("full-at-start")

    def page_by_page(self) -> None:
        """Room for nothing, for one page, for two, ...: each write of a request fails once."""
        steps = (0, 3, 9) if self.run.short else range(48)
        for pages in steps:
            self.small.fill(pages)
            for number in range(2):
                self._told(self.ask(f"pages-{pages}-{number}"))
            self.small.fill()
            self._refuses(f"pages-{pages}")
            self._recovers(f"pages-{pages}")
        self.run.say(f"every write has failed, {self._served()} served, {len(self.asked)} asked")

    def under_load(self) -> None:
        for number in range(1 if self.run.short else 4):
            plan = Plan(self.run.seed + number, hot=0.5, name=f"{number}-")
            with Load(
                [self.platform.port], CALLERS, plan, timeout=30, name=f"load{number}", rest=0.05
            ) as load:
                time.sleep(0.5)
                self.small.fill()
                time.sleep(1.5)
                load.pause()
                self._refuses(f"load-{number}")
                load.go_on()
                time.sleep(0.5)
                self._recovers(f"load-{number}")
                time.sleep(0.5)
            self.asked += load.asked
            for asked in load.asked:
                self._told(asked)
            self.run.say(f"filled and freed under load, {self._served()} served, {len(self.asked)} asked")

    def ends_well(self) -> None:
        platform, run = self.platform, self.run
        until = time.monotonic() + 10
        while open_rows(platform.ledger_url) and time.monotonic() < until:
            time.sleep(0.2)
        for name in ("before-last", "last"):
            self.asked.append(ask_once(platform.port, name, WARM))
        books, calls = read_books(platform.ledger_url), landed(self.upstream)
        run.demand(platform.runs, "the platform has ended by itself", platform.last_words())
        run.demand("Traceback" not in platform.last_words(), "a traceback", platform.last_words())
        run.demand(platform.end() == 0, "the platform did not end cleanly", platform.last_words())
        judge(run, self.asked, books, calls)
        run.found(integrity(platform.data_dir / "ledger.db"))
        run.figures |= {
            "asks": len(self.asked),
            "replies": dict(Counter(_kind(asked) for asked in self.asked).most_common()),
            "rows": len(books.rows),
            "states": dict(Counter(row["state"] for row in books.rows)),
            "calls": len(calls),
            "recovery_seconds_max": round(max(self.recoveries), 2),
        }

    # What must hold.

    def _told(self, asked: Asked) -> None:
        """An answer or a clear refusal, nothing else."""
        fine = _is_refused(asked) or (asked.reply is not None and asked.reply.status == 200)
        self.run.demand(fine, "neither an answer nor a clear refusal", f"  {asked}")

    def _refuses(self, marker: str) -> None:
        """On a full disk asks are served while the ledger still finds room within its own files, then refused.

        Who is refused once the ledger knows has cost nothing: the provider hears nothing of it.
        """
        for number in range(MOST_SERVED_WHEN_FULL):
            asked = self.ask(f"{marker}-full-{number}")
            self._told(asked)
            if _is_refused(asked):
                break
        self.run.demand(_is_refused(asked), "asks are served for ever on a full disk", self._files())
        state = self.platform.ledger_health()
        self.run.demand(state == "down", "health does not say that the ledger is down", f"  {state}")
        for number in range(3):
            asked = self.ask(f"{marker}-down-{number}")
            self._told(asked)
            in_vain = _is_refused(asked) and self._calls(asked)
            self.run.demand(
                not in_vain, "a call to the provider, and a refusal", f"  {asked}\n{self._files()}"
            )

    def _files(self) -> str:
        sizes = {str(path.relative_to(self.small.place)): path.stat().st_size for path in self._all_files()}
        return f"  on the disk: {sizes}"

    def _all_files(self) -> list[Path]:
        return [path for path in self.small.place.rglob("*") if path.is_file()]

    def _calls(self, asked: Asked) -> int:
        markers = (MARKER.match(call.prompt) for call in self.upstream.journal())
        return sum(found is not None and found[1] == asked.wanted.marker for found in markers)

    def _recovers(self, marker: str) -> None:
        """With room again the next asks are served, by the same process."""
        self.small.free()
        began = time.monotonic()
        for number in range(1000):
            asked = self.ask(f"{marker}-after-{number}")
            seconds = time.monotonic() - began
            if asked.reply is not None and asked.reply.status == 200:
                self.recoveries.append(seconds)
                break
            if seconds > self.run.within(RECOVERY_SECONDS):
                self.run.demand(False, "no recovery with room again", f"  {asked}\n{self._files()}")
                self.recoveries.append(seconds)
                break
            time.sleep(0.05)
        until = began + self.run.within(RECOVERY_SECONDS)
        while self.platform.ledger_health() != "ok" and time.monotonic() < until:
            time.sleep(0.05)
        state = self.platform.ledger_health()
        self.run.demand(state == "ok", "health is not ok again", f"  {state}")

    def _served(self) -> int:
        return sum(asked.reply is not None and asked.reply.status == 200 for asked in self.asked)


def _is_refused(asked: Asked) -> bool:
    return asked.reply is not None and (asked.reply.status, asked.reply.code) == (503, REFUSAL)


def _kind(asked: Asked) -> str:
    return asked.trouble if asked.reply is None else f"{asked.reply.status} {asked.reply.code}".strip()
