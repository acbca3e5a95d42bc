"""The workbench explains itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
LISTED = dict(re.findall(r"^([a-z-]+):[^=\n]*## (.+)$", MAKEFILE, re.MULTILINE))
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="this machine has no make")


def make(*words: str) -> str:
    # Inside `make test WORKERS=4` a make would say where it enters and leaves, and take over what that one was told.
    told = ("MAKE", "MFLAGS", "WORKERS")
    run = subprocess.run(
        ["make", *words],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(told)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return run.stdout


@needs_make
def test_make_alone_lists_every_command_with_its_words():
    shown = make("--no-print-directory")
    for name, words in LISTED.items():
        assert re.search(rf"^  make {name} +{re.escape(words)}$", shown, re.MULTILINE), name
    assert len(shown.splitlines()) == len(LISTED)


def test_every_command_is_phony_and_has_words():
    phony = set(re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)[1].split())
    assert phony == set(LISTED)
    assert {"run", "test", "check", "bench", "clean"} <= phony


@needs_make
def test_each_command_can_be_planned():
    for name in LISTED:
        make("--dry-run", name)


@needs_make
def test_run_prepares_everything_and_serves():
    plan = make("--dry-run", "--always-make", "run")
    assert "-m venv" in plan
    assert "--require-hashes -r requirements.lock" in plan
    assert "cp .env.example .env" in plan
    assert plan.rstrip().endswith("app.py")


@needs_make
def test_the_tests_run_on_two_processes_or_as_many_as_wanted_and_a_file_on_one():
    assert "-m pytest -q --timeout 300 -n 2 --dist loadfile" in make("--dry-run", "test")
    assert " -n 5 " in make("--dry-run", "test", "WORKERS=5")


def test_ci_runs_the_checks_and_all_tests():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "set -euo pipefail"
    assert lines[-2:] == ["make check", "make test"]


def test_the_lock_files_pin_and_hash_everything():
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text()
        pins = re.findall(r"^([a-z0-9._-]+)(\[[^\]]+\])?==\S+", text, re.MULTILINE | re.IGNORECASE)
        assert len(pins) > 10
        assert text.count("--hash=sha256:") >= len(pins)
