"""The house stands on its floors: who may import whom, who may read the environment, and what import may do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_THE_HOUSE = {"tests", "benchmarks", "chaos", "docs", "deploy", ".venv", "test_unit.py", "conftest.py"}
FLOORS = {
    "app": 5, "serve": 5, "wire": 5, "cli": 5,
    "commands": 5,
    "api": 4,
    "services": 3, "readings": 3, "account_services": 3, "provider_keys": 3,
    "pipeline": 2, "analytics": 2,
    "gemini_wrapper": 1, "providers": 1, "cost_tracker": 1, "store": 1, "metrics": 1, "auth": 1,
    "enhanced_logging": 1, "log_writer": 1, "log_lines": 1, "rotating_file": 1, "usage_sums": 1, "security": 1,
    "webhook": 1, "soft_limits": 1, "bills": 1, "remembered": 1,
    "addresses": 0, "lru_cache": 0, "single_flight": 0, "tasks": 0, "wording": 0, "prices": 0, "prices_file": 0, "errors": 0, "config": 0, "rules": 0, "rate_windows": 0,
    "token_estimate": 0, "tokenizer": 0, "code_facts": 0, "code_names": 0, "code_shapes": 0,
    "chats": 0, "taps": 0, "streams": 0, "identity": 0, "account_rules": 0, "bounds": 0,
}  # fmt: skip
MAY_KNOW_FLASK = {"api", "app", "enhanced_logging", "serve", "analytics/dashboard.py"}
SHADOWS = (
    "limits jwt redis openai anthropic alembic google platform logging http types token secrets queue profile"
)
VAGUE = ("utils", "helpers", "common", "core", "manager", "handler")
PROVIDER_LIBRARIES = (
    "langchain_google_genai",
    "langchain_openai",
    "langchain_anthropic",
    "openai",
    "anthropic",
    "httpx2",
    "langchain_core",
    "google.genai",
    "httpx",
    "httpcore",
    "genai_prices",
    "tiktoken",
)


def house_files() -> list[Path]:
    files = [path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in NOT_THE_HOUSE]
    assert len(files) > 15
    return files


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Top names of the modules that a file imports anywhere but for type checkers only."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", house_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_its_own_floor_or_below(path):
    floor = FLOORS[room(path)]  # a KeyError here: give the new room a floor
    above = {name for name in imported(path) if FLOORS.get(name, -1) > floor}
    # `python app.py` ends in serve; that is the one door between two rooms of the top floor.
    assert not above


def test_flask_is_known_at_the_street_only():
    knowing = {path for path in house_files() if {"flask", "flask_restx", "flask_limiter"} & imported(path)}
    strange = {path for path in knowing if room(path) not in MAY_KNOW_FLASK}
    assert {path.relative_to(ROOT).as_posix() for path in strange} <= MAY_KNOW_FLASK


def test_the_environment_is_read_in_one_place():
    reading = {
        path.relative_to(ROOT).as_posix()
        for path in house_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv")
    }
    assert reading == {"config.py"}


def test_no_root_name_shadows_a_dependency_and_no_name_is_vague():
    names = {path.stem for path in house_files()}
    roots = {path.stem for path in ROOT.glob("*.py")}
    assert not roots & set(SHADOWS.split())
    assert not [name for name in names for word in VAGUE if word in name.split("_")]


def test_packages_promise_nothing_at_their_door():
    for package in ("providers", "api", "security"):
        assert (ROOT / package / "__init__.py").read_text() == ""


PROBE = f"""
import sys, threading, time
opened = []
sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" and args[1] and set(args[1]) & set("wax+") else None)
sockets = []
sys.addaudithook(lambda event, args: sockets.append(args) if event in ("socket.bind", "socket.connect") else None)
began = time.perf_counter()
import app
seconds = time.perf_counter() - began
assert threading.active_count() == 1, threading.enumerate()
assert not opened, opened
assert not sockets, sockets
loaded = [name for name in {PROVIDER_LIBRARIES!r} if name in sys.modules]
assert not loaded, loaded
print(seconds)
"""


def test_import_starts_no_thread_opens_no_file_and_loads_no_provider(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert list(tmp_path.iterdir()) == []
