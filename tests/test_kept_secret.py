"""Secrets that an installation makes for itself."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from security.kept_secret import kept_secret

ROOT = Path(__file__).resolve().parent.parent


def test_a_secret_is_made_once_for_its_owner_only_and_stays(tmp_path):
    path = tmp_path / "new" / "secret"
    made = kept_secret(path)
    assert kept_secret(path) == made
    assert len(made) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["secret"]
    assert kept_secret(tmp_path / "other") != made


def test_all_threads_and_processes_that_ask_at_once_get_the_same(tmp_path):
    path = tmp_path / "secret"
    code = f"from pathlib import Path; from security.kept_secret import kept_secret; print(kept_secret(Path({str(path)!r})).decode())"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    with ThreadPoolExecutor(8) as pool:
        found = {secret.decode() for secret in pool.map(lambda _: kept_secret(path), range(64))}
    found |= {process.communicate(timeout=30)[0].strip() for process in processes}
    assert len(found) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


def test_a_folder_that_cannot_be_written_is_an_error_and_no_weaker_secret(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        kept_secret(tmp_path / "file" / "secret")
