"""The documents are true: settings, commands and map agree with the code."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from api.chat_asks import KNOWN
from api.embeddings import KNOWN as EMBEDDED
from config import Settings, load_settings

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = (ROOT / ".env.example").read_text()
README = (ROOT / "README.md").read_text()


def example_values() -> dict[str, str]:
    lines = [line for line in EXAMPLE.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_the_example_lists_every_setting_once_and_nothing_else():
    names = [line.split("=")[0] for line in EXAMPLE.splitlines() if line and not line.startswith("#")]
    assert sorted(names) == sorted(field.name.upper() for field in fields(Settings))


def test_the_example_shows_the_defaults():
    assert load_settings(example_values(), dotenv=None) == Settings()


def test_every_setting_of_the_example_has_words_above_it():
    block_has_words = False
    for line in EXAMPLE.splitlines():
        if line.startswith("# ") and not line.startswith("# ---"):
            block_has_words = True
        elif not line:
            block_has_words = False
        elif not line.startswith("#"):
            assert block_has_words, line


@pytest.mark.parametrize("name", [field.name.upper() for field in fields(Settings)])
def test_the_readme_names_every_setting(name):
    assert f"`{name}`" in README


def test_the_readme_names_real_make_targets_and_files():
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set(re.findall(r"make ([a-z-]+)", README))
    assert {"run", "test"} <= used <= targets
    for name in re.findall(r"^\| `([a-z_/]+\.py|[a-z]+/)` \|", README, re.MULTILINE):
        assert (ROOT / name).exists(), name


def test_no_document_speaks_of_a_machine_of_ours():
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]:
        assert not re.search(r"/(work|root|farm)/", path.read_text()), path


def test_every_parameter_of_openais_is_told_of():
    told = (ROOT / "docs" / "openai.md").read_text()
    for name in KNOWN | EMBEDDED:
        assert f"`{name}`" in told or (name.startswith("prompt_cache_") and "`prompt_cache_*`" in told), name


def test_a_block_that_ends_what_it_started_waits_for_its_end():
    lines = (ROOT / "ENTERPRISE_FEATURES.md").read_text().splitlines()
    ends = [line for line in lines if "kill %" in line]
    assert ends
    assert [line for line in ends if "; wait" not in line.partition("kill %")[2]] == []
