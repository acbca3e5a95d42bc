"""A cached hit beside a big ledger, against one beside an empty ledger, and empty against empty as the control."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.cached import PROMPT, answer_of
from benchmarks.children import Child, platform
from benchmarks.ledger_reads import Oracle
from benchmarks.rounds import Figure, Reading, Side, interleave
from tests.upstream import UpstreamProcess

AT_MOST = 1.1
HEAD = (
    *("cached hit", "empty ledger", "big ledger", "ratio", "min to max"),
    *("control: empty to empty", "min to max", "target"),
)


@dataclass(frozen=True, slots=True)
class Beside:
    """One quantity, smaller is better: the big ledger and the control, each against the same empty one."""

    big: Figure
    control: Figure

    @property
    def met(self) -> bool:
        return self.big.ratio <= AT_MOST

    def cells(self) -> list[str]:
        sides = (self.big.baseline, self.big.candidate)
        return [
            self.big.name,
            *(f"{median(turn.value for turn in side):,.0f} {self.big.unit}" for side in sides),
            *_told(self.big),
            *_told(self.control),
            self.big.verdict,
        ]


@dataclass(frozen=True, slots=True)
class Hits:
    """Time and CPU at one number of connections, and what the empty ledgers had become by the end."""

    quantities: tuple[Beside, ...]
    empty_rows: int


def hits(crowds: Sequence[int], rounds: int, seconds: float, folder: str, big: Path) -> Iterator[Hits]:
    """New processes, and new empty ledgers, for each number of connections: hits are rows, too."""
    with UpstreamProcess() as upstream, Child("-m", "benchmarks.load") as load:
        live = {"GOOGLE_API_KEY": "any-key", "GEMINI_BASE_URL": upstream.url}
        for connections in crowds:
            name = f"{connections} connection{'s' if connections > 1 else ''}"
            empty = [Path(folder, f"{side}-{connections}") for side in ("empty", "control")]
            job = partial(load.ask, connections=connections, seconds=seconds, prompt=PROMPT, distinct=False)
            with ExitStack() as stack:
                sides = [_side(stack, job, data_dir, live) for data_dir in (*empty, big)]
                turns = interleave(f"cached hit, {name}", rounds, *sides)
                rows = max(Oracle(data_dir).since(0).rows for data_dir in empty)
            yield Hits(tuple(_quantities(name, turns)), rows)


def _side(stack: ExitStack, job: Side, data_dir: Path, live: dict[str, str]) -> Side:
    data_dir.mkdir(exist_ok=True)
    server = stack.enter_context(platform(f"{data_dir}-logs", DATA_DIR=str(data_dir), **live))
    port = server.port()
    answer_of(port)
    return partial(job, port=port, pid=server.pid, expected="X-Cache-Status: hit")


def _quantities(name: str, turns: Sequence[tuple[Reading, ...]]) -> Iterator[Beside]:
    """Microseconds per request, on the clock (one over the throughput) and of the CPU, where the system tells it."""
    clock = [tuple(Reading(1_000_000 / turn.value) for turn in side) for side in turns]
    yield _beside(f"time per request, {name}", clock)
    if all(turn.cpu_ms is not None for side in turns for turn in side):
        cpu = [tuple(Reading((turn.cpu_ms or 0.0) * 1000) for turn in side) for side in turns]
        yield _beside(f"CPU per request, {name}", cpu)


def _beside(name: str, turns: Sequence[tuple[Reading, ...]]) -> Beside:
    empty, control, big = turns
    return Beside(
        Figure(name, "µs", empty, big, limit="", at_most=AT_MOST),
        Figure(name, "µs", empty, control, limit=""),
    )


def _told(figure: Figure) -> tuple[str, str]:
    return f"{figure.ratio:.2f}", f"{min(figure.ratios):.2f} to {max(figure.ratios):.2f}"
