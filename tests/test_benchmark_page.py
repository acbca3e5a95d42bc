"""The pages of benchmarks and chaos: each command changes its own tables and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.page import BIG_LEDGER, FIGURES, README, SAVINGS, Marks, write_readme
from chaos import table as chaos

PLACES = {
    "figures": (FIGURES, README),
    "savings": (SAVINGS, README),
    "big ledger": (BIG_LEDGER, README),
    "chaos": (chaos.PLACE, chaos.README),
}


@pytest.mark.parametrize(("marks", "readme"), PLACES.values(), ids=PLACES)
def test_the_page_has_one_place_for_the_tables_and_keeps_the_rest(
    marks: Marks, readme: Path, tmp_path: Path
) -> None:
    page = readme.read_text("utf-8")
    copy = tmp_path / "README.md"
    copy.write_text(page, "utf-8")
    write_readme("the new tables", marks, copy)
    written = copy.read_text("utf-8")
    assert written.count(marks.begin) == written.count(marks.end) == 1
    assert written.partition(marks.begin)[0] == page.partition(marks.begin)[0]
    assert written.partition(marks.end)[2] == page.partition(marks.end)[2]
    assert f"{marks.begin}\n\nthe new tables\n\n{marks.end}" in written


@pytest.mark.parametrize("text", ["no marks", f"{FIGURES.begin} and no end", f"{FIGURES.end}{FIGURES.begin}"])
def test_a_page_that_lost_its_marks_is_left_as_it_is(text: str, tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="lost its marks"):
        write_readme("new", FIGURES, page)
    assert page.read_text() == text
