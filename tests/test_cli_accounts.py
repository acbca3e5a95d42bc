"""The commands of accounts, run as people run them: `python cli.py ...` in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.engine import make_url

from errors import Unauthorized
from security.api_keys import new_secret
from store.account_tables import budgets
from store.db import ledger_url
from tests.account_house import ADDRESS, PASSWORD, UNUSED, Registry, open_registry

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Desk:
    """The commands on an installation of which nothing is there yet."""

    folder: Path
    environment: dict[str, str]

    def run(self, *arguments: str, typed: str = "", status: int = 0) -> subprocess.CompletedProcess[str]:
        ran = subprocess.run(
            [sys.executable, "cli.py", *arguments],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **self.environment},
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == status, ran.stderr
        assert "Traceback" not in ran.stderr
        return ran

    def json(self, *arguments: str, typed: str = "") -> Any:
        return json.loads(self.run(*arguments, "--json", typed=typed).stdout)

    def audit(self) -> list[dict[str, Any]]:
        path = self.folder / "logs" / "security_audit.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def registry(self) -> Registry:
        """The same accounts, as a platform that runs beside has them."""
        address = self.environment.get("DATABASE_URL")
        url = make_url(address) if address else ledger_url("", str(self.folder / "data"))
        pepper = self.environment.get("API_KEY_PEPPER", "")
        return open_registry(url, self.folder / "data", time.time(), api_key_pepper=pepper)


@pytest.fixture(params=["sqlite", "postgresql"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    environment = {"DATA_DIR": str(tmp_path / "data"), "LOG_DIR": str(tmp_path / "logs")}
    if request.param == "postgresql":
        environment |= {
            "DATABASE_URL": request.getfixturevalue("postgres_url"),
            "API_KEY_PEPPER": new_secret(),
        }
    return Desk(tmp_path, environment)


def test_the_first_key_of_an_empty_installation_works_at_once(desk):
    made = desk.json("create-key", "--name", "ci", "--role", "developer", "--budget-usd", "1.000000001", "--soft-usd", "0.5", "--budget-period", "day", "--rate-limit", "5 per minute", "--models", "m-1,m-2", "--scopes", "tasks,reports", "--expires-days", "30")  # fmt: skip
    assert made["key"].startswith(f"llm_{made['id']}_")
    assert made["budget"] == UNUSED | {
        "period": "day",
        "limit_usd": "1.000000001",
        "soft_usd": "0.500000000",
        "left_usd": "1.000000001",
    }
    registry = desk.registry()
    who = registry.who(made["key"])
    assert (who.key_id, who.models, who.rate_limit) == (made["id"], ("m-1", "m-2"), "5 per minute")
    assert who.budgets[0].limit_nano == 1_000_000_001
    assert sorted(who.scopes) == ["reports", "tasks"]
    line = next(line for line in desk.audit() if line["event"] == "KEY_CREATED")
    assert line["details"]["by_id"] == "operator"
    assert line["details"]["to"]["name"] == "ci"
    assert made["key"][-43:] not in str(desk.audit())
    registry.database.close()


def test_a_key_lives_from_its_making_over_its_rotation_to_its_end(desk):
    old = desk.json("create-key", "--name", "ci", "--role", "viewer")
    new = desk.json("rotate-key", old["id"], "--grace-hours", "1")
    assert new["id"] == old["id"]
    assert new["key"] != old["key"]
    registry = desk.registry()
    assert registry.who(old["key"]).key_id == registry.who(new["key"]).key_id == old["id"]
    assert "revoked, everywhere within a second" in desk.run("revoke-key", old["id"]).stdout
    registry.hands.now += 1
    with pytest.raises(Unauthorized):
        registry.who(new["key"])
    assert desk.json("list-keys")[0]["revoked"]
    shown = desk.run("list-keys").stdout
    assert "revoked" in shown
    assert old["key"][-43:] not in shown
    events = [line["event"] for line in desk.audit()]
    assert events == ["ORGANISATION_CREATED", "KEY_CREATED", "KEY_ROTATED", "KEY_REVOKED"]
    registry.database.close()


def test_an_administrator_is_made_with_a_password_from_standard_input(desk):
    made = desk.json("create-admin", typed=f"{PASSWORD}\n")
    assert (made["name"], made["role"]) == ("admin", "admin")
    assert "admin" in desk.run("list-users").stdout
    desk.environment["JWT_SECRET_KEY"] = new_secret()
    registry = desk.registry()
    registry.auth._signer.keys = lambda: [b"x" * 32]
    assert registry.who(registry.auth.sign_in("ADMIN", PASSWORD, ADDRESS).access).role == "admin"
    assert PASSWORD not in str(desk.audit())
    registry.database.close()


def test_there_is_no_password_but_the_one_that_is_given(desk):
    for typed in ("", "\n", "short\n"):
        assert "assword" in desk.run("create-admin", typed=typed, status=1).stderr
    assert desk.json("list-users") == []
    assert "unrecognized" in desk.run("create-admin", "--password", "x", typed="x", status=2).stderr


def test_users_have_roles_budgets_and_keys_of_their_own(desk):
    desk.run("create-organisation", "--name", "Acme", "--budget-usd", "100")
    desk.run("create-organisation", "--name", "Other")
    assert "Which organisation?" in desk.run("create-key", "--name", "k", "--role", "viewer", status=1).stderr
    user = desk.json(
        "create-user", "--name", "Ada", "--role", "developer", "--organisation", "Acme", "--no-password"
    )
    key = desk.json("create-key", "--name", "k", "--role", "developer", "--user", "ADA")
    assert (key["user_id"], key["organisation"]) == (user["id"], user["organisation"])
    desk.run("set-budget", "user:ada", "--budget-usd", "7", "--budget-period", "total")
    desk.run("set-budget", "user:ada", "--budget-usd", "8")
    desk.run("set-budget", f"key:{key['id']}", "--soft-usd", "1")
    desk.run("set-budget", "organisation:Acme", "--none")
    assert desk.json("list-users")[0]["budget"] == UNUSED | {
        "period": "total",
        "limit_usd": "8.000000000",
        "soft_usd": None,
        "left_usd": "8.000000000",
    }
    assert desk.json("list-keys")[0]["budget"] == UNUSED | {
        "period": "month",
        "limit_usd": None,
        "soft_usd": "1.000000000",
    }
    assert {each["name"]: each["budget"] for each in desk.json("list-organisations")} == {
        "Acme": None,
        "Other": None,
    }
    assert desk.json("change-user", "ada", "--role", "viewer", "--active", "no")["active"] is False
    registry = desk.registry()
    with pytest.raises(Unauthorized):
        registry.who(key["key"])
    registry.database.close()


def test_a_budget_keeps_what_a_change_of_it_does_not_name(desk):
    made = desk.json("create-key", "--name", "k", "--role", "viewer", "--budget-usd", "20")
    owner = f"key:{made['id']}"
    left = UNUSED | {"left_usd": "20.000000000"}
    both = left | {"period": "month", "limit_usd": "20.000000000", "soft_usd": "15.000000000"}
    assert desk.json("set-budget", owner, "--soft-usd", "15")["budget"] == both
    assert desk.json("set-budget", owner, "--budget-period", "day")["budget"] == both | {"period": "day"}
    assert "below the hard one" in desk.run("set-budget", owner, "--budget-usd", "0", status=1).stderr
    closed = desk.json("set-budget", owner, "--budget-usd", "0", "--soft-usd", "0")["budget"]
    assert (closed["limit_usd"], closed["soft_usd"], closed["period"]) == ("0.000000000", None, "day")
    assert "or else --none" in desk.run("set-budget", owner, "--none", "--budget-usd", "3", status=1).stderr
    assert desk.json("set-budget", owner, "--none")["budget"] is None
    assert "say how much" in desk.run("set-budget", owner, "--budget-period", "day", status=1).stderr


def test_a_whole_organisation_is_locked_and_served_again(desk):
    desk.run("create-organisation", "--name", "Acme")
    text = desk.json("create-key", "--name", "k", "--role", "developer")["key"]
    registry = desk.registry()  # which makes an organisation of its own, main
    assert registry.who(text)
    assert "is locked" in desk.run("change-organisation", "Acme", "--active", "no").stdout
    registry.hands.now += 1
    with pytest.raises(Unauthorized):
        registry.who(text)
    found = {each["name"]: each for each in desk.json("list-organisations")}
    assert {name: each["active"] for name, each in found.items()} == {"Acme": False, "main": True}
    shown = found["Acme"]
    listed = [line.split() for line in desk.run("list-organisations").stdout.splitlines()]
    assert ["Acme", shown["id"], "no"] in listed
    assert desk.json("change-organisation", shown["id"], "--active", "yes")["active"] is True
    assert registry.who(text)
    lines = [line for line in desk.audit() if line["event"] == "ORGANISATION_CHANGED"]
    assert [line["details"]["to"] for line in lines] == [{"active": False}, {"active": True}]
    assert lines[0]["details"]["by_id"] == "operator"
    registry.database.close()


def test_lists_say_what_is_spent_reserved_and_left_of_each_budget(desk):
    desk.run("create-organisation", "--name", "main", "--budget-usd", "9", "--budget-period", "total")
    desk.run("create-user", "--name", "ada", "--role", "developer", "--no-password", "--soft-usd", "2")
    made = desk.json(
        "create-key", "--name", "k", "--role", "developer", "--budget-usd", "5", "--budget-period", "total"
    )
    registry = desk.registry()
    with registry.database.change() as connection:
        for scope in (f"key:{made['id']}:total", f"tenant:{made['organisation']}:total"):
            spent = {"scope": scope, "start": 0, "spent_nano": 1_000_000_001, "reserved_nano": 3}
            connection.execute(insert(budgets).values(spent))
    registry.database.close()
    used = {"spent_usd": "1.000000001", "reserved_usd": "0.000000003"}
    for command, left in (("list-keys", "3.999999996"), ("list-organisations", "7.999999996")):
        (listed,) = desk.json(command)
        assert listed["budget"].items() >= (used | {"left_usd": left}).items()
        heads, line = desk.run(command).stdout.splitlines()
        assert heads.split()[-4:] == ["budget", "spent", "reserved", "left"]
        assert line.split()[-3:] == [*used.values(), left]
    assert desk.json("list-users")[0]["budget"].items() >= UNUSED.items()


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["create-key", "--name", "k", "--role", "owner"], 2, "admin"),
        (
            ["create-key", "--name", "k", "--role", "viewer", "--budget-usd", "0.0000000001"],
            2,
            "nine decimals",
        ),
        (["create-key", "--name", "k", "--role", "viewer", "--budget-usd", "NaN"], 2, "nine decimals"),
        (["create-key", "--name", "k", "--role", "viewer", "--budget-period", "week"], 2, "month"),
        (
            ["create-key", "--name", "k", "--role", "viewer", "--expires-days", "0"],
            2,
            "a whole number from 1",
        ),
        (
            ["create-key", "--name", "k", "--role", "viewer", "--scopes", "tasks"],
            1,
            "`scopes` of the role viewer",
        ),
        (["create-key", "--name", "k", "--role", "viewer", "--scopes", "all"], 1, "`scopes` must be"),
        (["create-key", "--name", "k", "--role", "viewer", "--rate-limit", "often"], 1, "10 per minute"),
        (["create-key", "--name", "k", "--role", "viewer", "--user", "nobody"], 1, "nothing of that name"),
        (
            ["create-key", "--name", "k", "--role", "viewer", "--organisation", "none"],
            1,
            "create-organisation",
        ),
        (["revoke-key", "0" * 12], 1, "nothing of that name"),
        (["rotate-key", "x", "--grace-hours", "169"], 2, "a whole number from 0 to 168"),
        (["set-budget", "me", "--budget-usd", "1"], 1, "key:ID"),
        (["set-budget", "key:x"], 1, "nothing of that name"),
        (["create-key", "--name", "k", "--role", "viewer", "--budget-period", "day"], 1, "say how much"),
        (
            ["create-key", "--name", "k", "--role", "viewer", "--soft-usd", "2", "--budget-usd", "1"],
            1,
            "must be below the hard one (1.000000000 $)",
        ),
        (["create-organisation", "--name", "o", "--budget-period", "day"], 1, "say how much"),
        (["create-key", "--name", "k", "--role", "owner"], 2, "'admin', 'developer', 'viewer'"),
        (["change-user", "x"], 1, "Say what to change"),
        (["change-organisation", "x"], 2, "--active"),
        (["change-organisation", "x", "--active", "no"], 1, "create-organisation"),
    ],
)
def test_wrong_arguments_are_answered_with_the_next_step(tmp_path, arguments, status, told):
    desk = Desk(tmp_path, {"DATA_DIR": str(tmp_path / "data"), "LOG_DIR": str(tmp_path / "logs")})
    assert told in desk.run(*arguments, status=status).stderr


def test_on_postgresql_keys_need_the_pepper_that_all_instances_share(tmp_path, postgres_url):
    desk = Desk(tmp_path, {"DATABASE_URL": postgres_url, "DATA_DIR": str(tmp_path), "LOG_DIR": str(tmp_path)})
    assert "API_KEY_PEPPER" in desk.run("create-key", "--name", "k", "--role", "viewer", status=1).stderr
    desk.environment["AUTH"] = "required"
    assert desk.run("list-keys", status=78).stderr.startswith("Not started: API_KEY_PEPPER")
