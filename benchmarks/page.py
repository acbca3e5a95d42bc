"""benchmarks/README.md, in which the tables of each command stand between two marks of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).with_name("README.md")


@dataclass(frozen=True, slots=True)
class Marks:
    begin: str
    end: str


FIGURES = Marks("<!-- figures: python -m benchmarks --write -->", "<!-- end of figures -->")
SAVINGS = Marks("<!-- savings: python -m benchmarks.savings --write -->", "<!-- end of savings -->")
BIG_LEDGER = Marks(
    "<!-- big ledger: python -m benchmarks.big_ledger --write -->", "<!-- end of big ledger -->"
)


def write_readme(block: str, marks: Marks, readme: Path = README) -> None:
    """The block between the two marks, in place of the one of an earlier run."""
    before, begin, rest = readme.read_text("utf-8").partition(marks.begin)
    _, end, after = rest.partition(marks.end)
    if not begin or not end:
        raise ValueError(f"{readme} has lost its marks {marks.begin} and {marks.end}.")
    readme.write_text(f"{before}{begin}\n\n{block}\n\n{end}{after}", "utf-8")
