"""API keys at the door: who they stand for, how soon that changes, and what those get who guess."""

from __future__ import annotations

import multiprocessing
import random
import string
import time
import timeit
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from auth import AWAY_SECONDS, FRESH_SECONDS, KNOWN_SECONDS, LATEST_SECONDS
from errors import Forbidden, LedgerUnavailable, LockedOut, NotThere, Unauthorized
from identity import ANONYMOUS, OPERATOR, Budget, Scope
from security import guesses
from security.api_keys import matches, new_secret, read_key
from security.guesses import MOST_GUESSES, WINDOW_SECONDS
from tests.account_house import (
    ADDRESS,
    PASSWORD,
    open_registry,
    refused,
)
from tests.readers import wait_until

DAY = 86_400


# Who it is.


def test_a_key_stands_for_its_organisation_its_user_and_all_their_limits(registry):
    user = registry.user(budget=Budget("", "month", 20))
    registry.accounts.change_organisation(registry.home.id, OPERATOR, budget=Budget("", "total", 30))
    key, shown = registry.key(
        user_id=user.id, models=["m-1"], rate_limit="5 per minute", budget=Budget("", "day", 10, 5)
    )
    who = registry.who(shown)
    assert (who.tenant, who.user_id, who.key_id, who.role) == (registry.home.id, user.id, key.id, "developer")
    assert who.scopes == {Scope.TASKS, Scope.REPORTS, Scope.KEYS}
    assert (who.models, who.rate_limit) == (("m-1",), "5 per minute")
    assert who.budgets == (
        Budget(f"key:{key.id}", "day", 10, 5),
        Budget(f"user:{user.id}", "month", 20),
        Budget(f"tenant:{registry.home.id}", "total", 30),
    )


def test_both_headers_are_taken_and_two_different_keys_are_not(registry):
    one, other = registry.key()[1], registry.key()[1]
    assert registry.auth.identify(None, one, ADDRESS) == registry.auth.identify(
        f"bearer {one}", None, ADDRESS
    )
    assert registry.auth.identify(f"Bearer {one}", one, ADDRESS).key_id
    for authorization, api_key in [
        (f"Bearer {one}", other),
        (f"Bearer {one} {one}", None),
        (f"Basic {one}", None),
        ("", None),
        (None, ""),
    ]:
        with pytest.raises(Unauthorized):
            registry.auth.identify(authorization, api_key, ADDRESS)


@pytest.mark.parametrize("blank", ["", " ", "\t "])
def test_an_empty_authorization_beside_a_key_is_none(make_registry, blank):
    for auth in ("required", "open"):
        registry = make_registry(auth=auth)
        key, shown = registry.key()
        assert registry.auth.identify(blank, shown, ADDRESS).key_id == key.id
        for wrong in ("", wrong_key(), "not-needed"):
            with pytest.raises(Unauthorized):
                registry.auth.identify(blank, wrong, ADDRESS)
        for authorization in ("Bearer", "Bearer ", "Basic"):
            with pytest.raises(Unauthorized):
                registry.auth.identify(authorization, shown, "192.0.2.9")
        with pytest.raises(Unauthorized):
            registry.auth.identify(blank, None, ADDRESS)


def test_without_a_key_one_is_nobody_where_that_is_allowed(make_registry):
    registry = make_registry(auth="open")
    assert registry.auth.identify(None, None, ADDRESS) is ANONYMOUS
    # Clients of OpenAI insist on sending something.
    assert registry.who("not-needed") is ANONYMOUS
    for wrong in (f"llm_{'0' * 12}_{new_secret()}", "eyJhbGciOi", "x' OR 1=1", "llm_x"):
        refused(registry, wrong)
    with pytest.raises(Unauthorized):
        registry.auth.identify(None, "not-needed", ADDRESS)
    with pytest.raises(Unauthorized):
        make_registry().auth.identify(None, None, ADDRESS)


def test_the_text_of_a_key_is_nowhere_in_the_database(registry, tmp_path):
    _, shown = registry.key()
    registry.who(shown)
    with registry.database.look() as connection:
        rows = str(connection.execute(text("SELECT * FROM api_keys")).all())
    presented = read_key(shown)
    assert presented.secret not in rows
    assert presented.secret not in str(registry.lines)
    assert presented.id in rows


def test_keys_that_begin_alike_are_never_taken_for_each_other(registry):
    _, shown = registry.key()
    assert registry.who(shown)
    for length in range(17, len(shown) - 1, 6):
        other = shown[:length] + "".join("A" if char != "A" else "B" for char in shown[length:])
        refused(registry, other, f"10.0.0.{length}")


def test_a_kept_digest_is_good_for_its_own_key_under_its_own_pepper_only(make_registry):
    """Whoever can write to the database can so neither lend a key's digest to another nor make one themselves."""
    registry = make_registry()
    (low, shown), (high, _) = registry.key("viewer"), registry.key("admin")
    taken = text(
        "UPDATE api_keys SET secret_mac = (SELECT secret_mac FROM api_keys WHERE id = :low) WHERE id = :high"
    )
    with registry.database.change() as connection:
        connection.execute(taken, {"low": low.id, "high": high.id})
    assert refused(registry, shown.replace(low.id, high.id)) == "secret"
    assert registry.who(shown).key_id == low.id
    peppered = make_registry(api_key_pepper=new_secret())
    assert refused(peppered, shown) == "secret"


def test_the_key_of_a_user_who_is_no_more_stands_for_nobody(registry):
    user = registry.user()
    _, shown = registry.key(user_id=user.id)
    with registry.database.change() as connection:
        connection.execute(text("DELETE FROM users WHERE id = :id"), {"id": user.id})
    assert refused(registry, shown) == "inactive"


# How soon it changes.


def test_a_revoked_key_is_refused_within_a_second_and_for_good(registry):
    key, shown = registry.key()
    assert registry.who(shown)
    registry.accounts.revoke_key(key.id, OPERATOR)
    registry.hands.now += 0.95
    assert refused(registry, shown) == "revoked"
    registry.hands.now += DAY
    assert refused(registry, shown) == "revoked"
    assert [line["id"] for line in registry.events("KEY_REVOKED")] == [key.id]


def test_an_identity_is_never_used_for_a_second_whatever_others_do(registry):
    _, shown = registry.key()
    registry.who(shown)
    known = registry.auth._known.peek(next(iter(registry.auth._known._entries)))
    known.being_looked_up = True  # another thread has begun to, and hangs
    registry.hands.now += LATEST_SECONDS + 0.01
    assert not registry.auth._is_good(known)
    assert FRESH_SECONDS < LATEST_SECONDS < 1


def test_every_change_of_a_key_or_its_user_counts_within_a_second(registry):
    user = registry.user(role="admin")
    key, shown = registry.key("admin", user_id=user.id)
    assert Scope.ADMIN in registry.who(shown).scopes
    registry.accounts.change_user(user.id, OPERATOR, role="viewer")
    registry.hands.now += 1
    assert registry.who(shown).scopes == {Scope.REPORTS}
    assert registry.who(shown).role == "viewer"
    registry.accounts.change_key(key.id, OPERATOR, role="viewer", models=["m-2"])
    registry.hands.now += 1
    assert registry.who(shown).models == ("m-2",)
    registry.accounts.change_user(user.id, OPERATOR, active=False)
    registry.hands.now += 1
    assert refused(registry, shown) == "inactive"


def test_a_locked_organisation_is_served_nothing_within_a_second_and_goes_on_as_before(registry):
    registry.auth._signer.keys = lambda: [b"x" * 32]
    user, other = registry.user(), registry.accounts.create_organisation("other", OPERATOR)
    own, nobodys, elsewhere = (
        registry.key(**owner)[1] for owner in ({"user_id": user.id}, {}, {"organisation": other.id})
    )
    tokens = registry.auth.sign_in("ada", PASSWORD, ADDRESS)
    inside = (own, nobodys, tokens.access)
    before = [registry.who(each) for each in (*inside, elsewhere)]
    registry.lines.clear()
    registry.accounts.change_organisation(registry.home.id, OPERATOR, active=False)
    registry.hands.now += 0.95
    for _ in range(MOST_GUESSES):
        assert {refused(registry, each) for each in inside} == {"inactive"}
    assert registry.who(elsewhere) == before[-1]
    for attempt in (
        lambda: registry.auth.sign_in("ada", PASSWORD, "192.0.2.7"),
        lambda: registry.auth.refresh(tokens.refresh, "192.0.2.7"),
    ):
        with pytest.raises(Unauthorized):
            attempt()
    assert not registry.events("AUTH_LOCKOUT"), "what was good once is no guess"
    registry.accounts.change_organisation(registry.home.id, OPERATOR, active=True)
    registry.hands.now += 1
    assert [registry.who(each) for each in (*inside, elsewhere)] == before
    assert registry.auth.refresh(tokens.refresh, ADDRESS)
    told = [
        (severity, line["from"], line["to"])
        for event, severity, line in registry.lines
        if event == "ORGANISATION_CHANGED"
    ]
    assert told == [
        ("HIGH", {"active": True}, {"active": False}),
        ("HIGH", {"active": False}, {"active": True}),
    ]


def test_an_organisation_that_an_older_version_makes_is_served(registry):
    row = "INSERT INTO organisations (id, name, created_us) VALUES ('old', 'old', 1)"
    with registry.database.change() as connection:
        connection.execute(text(row))
    assert registry.accounts.organisation("old").active
    assert registry.who(registry.key(organisation="old")[1]).tenant == "old"


def test_after_a_rotation_both_secrets_are_good_until_the_grace_is_over(registry):
    key, old = registry.key()
    registry.who(old)
    rotated, new = registry.accounts.rotate_key(key.id, OPERATOR, grace_seconds=3600)
    assert rotated.id == key.id
    registry.hands.now += 1
    assert registry.who(old).key_id == registry.who(new).key_id == key.id
    registry.hands.now += 3600
    assert registry.who(new).key_id == key.id
    assert refused(registry, old) == "expired"


def test_the_old_secret_of_a_rotated_key_asks_and_reads_and_manages_nothing(registry):
    """Whoever has stolen it could else rotate the key once more, and be the only one who has it."""
    key, old = registry.key("admin", scopes=["tasks", "reports", "keys", "admin", "metrics"])
    before = registry.who(old)
    _, new = registry.accounts.rotate_key(key.id, OPERATOR)
    registry.hands.now += 1
    thief = registry.who(old)
    assert thief == replace(before, scopes=frozenset({Scope.TASKS, Scope.REPORTS, Scope.METRICS}))
    assert registry.who(new) == before
    accounts = registry.accounts
    for attempt in (
        lambda: accounts.rotate_key(key.id, thief, grace_seconds=0),
        lambda: accounts.revoke_key(key.id, thief),
        lambda: accounts.change_key(key.id, thief, name="mine"),
        lambda: accounts.create_key("k", "viewer", thief),
        lambda: accounts.create_user("eve", "viewer", thief),
    ):
        with pytest.raises((NotThere, Forbidden)):
            attempt()
    assert registry.who(new) == before


def test_a_rotation_without_grace_ends_the_old_secret_at_once(registry):
    key, old = registry.key()
    _, new = registry.accounts.rotate_key(key.id, OPERATOR, grace_seconds=0)
    registry.hands.now += 1
    assert registry.who(new)
    refused(registry, old)
    _, newest = registry.accounts.rotate_key(key.id, OPERATOR)
    assert registry.who(newest)
    refused(registry, old, "10.0.0.9")


def test_a_key_ends_at_its_moment_even_if_it_was_used_just_before(registry):
    ends = registry.hands.now + 0.2
    _, shown = registry.key(expires_us=round(ends * 1_000_000))
    assert registry.who(shown)
    registry.hands.now += 0.3
    assert refused(registry, shown) == "expired"


def test_when_a_key_was_last_used_is_noted_once_a_minute(registry):
    key, shown = registry.key()
    for _ in range(3):
        registry.who(shown)
        registry.hands.now += 1
    first = registry.accounts.key(key.id).last_used_us
    assert first == round((registry.hands.now - 3) * 1_000_000)
    registry.hands.now += 61
    registry.who(shown)
    assert registry.accounts.key(key.id).last_used_us == round(registry.hands.now * 1_000_000)


def _revoke(url: str, folder: Path, key_id: str, told: Pipe) -> None:
    registry = open_registry(make_url(url), folder, time.time())
    registry.accounts.revoke_key(key_id, OPERATOR)
    told.send(time.monotonic())  # the processes of one machine have this clock in common
    registry.database.close()


def test_another_process_sees_a_revocation_within_a_second(make_registry, accounts_url, tmp_path):
    """An ask counts from when it began: the machine may stop between its answer and a look at the clock."""
    registry = make_registry()
    registry.auth._timer = time.monotonic
    registry.auth._clock = time.time
    key, shown = registry.key()
    served: list[float] = []

    def is_refused() -> bool:
        began = time.monotonic()
        try:
            registry.who(shown)
        except Unauthorized:
            return True
        served.append(began)
        return False

    assert not is_refused()
    address = accounts_url.render_as_string(hide_password=False)
    spawn = multiprocessing.get_context("spawn")
    heard, told = spawn.Pipe(duplex=False)
    with heard, told:
        other = spawn.Process(target=_revoke, args=(address, tmp_path / "data", key.id, told))
        other.start()
        assert wait_until(is_refused, 60)
        other.join(60)
        assert other.exitcode == 0
        assert served[-1] - heard.recv() < 1


# Where the database is away.


def test_who_is_known_is_served_for_five_minutes_while_the_database_is_away(registry):
    _, shown = registry.key()
    who = registry.who(shown)
    registry.database._ready = _away
    for seconds in (1, 60, KNOWN_SECONDS - 70):
        registry.hands.now += seconds
        assert registry.who(shown) == who
    with pytest.raises(LedgerUnavailable):
        registry.who(f"llm_{'0' * 12}_{new_secret()}")
    registry.hands.now += 10
    with pytest.raises(LedgerUnavailable):
        registry.who(shown)
    registry.database._ready = lambda: None
    registry.hands.now += 10
    assert registry.who(shown) == who


def test_a_key_that_was_refused_is_not_good_again_once_the_database_is_away(registry):
    key, shown = registry.key()
    registry.who(shown)
    registry.accounts.revoke_key(key.id, OPERATOR)
    registry.hands.now += 1
    refused(registry, shown)
    registry.database._ready = _away
    for _ in range(3):
        registry.hands.now += 0.4
        with pytest.raises(LedgerUnavailable):
            registry.who(shown)


def test_a_key_ends_at_its_moment_while_the_database_is_away_too(registry):
    _, shown = registry.key(expires_us=round((registry.hands.now + 30) * 1_000_000))
    registry.who(shown)
    registry.database._ready = _away
    registry.hands.now += 29
    assert registry.who(shown)
    registry.hands.now += 2
    with pytest.raises(LedgerUnavailable):
        registry.who(shown)


def test_once_the_database_is_back_a_revocation_counts_within_a_second_again(registry):
    key, shown = registry.key()
    registry.who(shown)
    registry.database._ready = _away
    registry.hands.now += 1
    registry.who(shown)
    registry.database._ready = lambda: None
    registry.hands.now += AWAY_SECONDS
    registry.who(shown)
    registry.accounts.revoke_key(key.id, OPERATOR)
    registry.hands.now += 0.95
    assert refused(registry, shown) == "revoked"


def test_while_the_database_is_away_one_request_at_a_time_asks_for_it(registry):
    _, shown = registry.key()
    registry.who(shown)
    tries: list[float] = []

    def away() -> None:
        tries.append(registry.hands.now)
        _away()

    registry.database._ready = away
    for _ in range(100):
        registry.hands.now += 0.1
        registry.who(shown)
    assert len(tries) == 3


def _away() -> None:
    raise LedgerUnavailable()


def test_a_note_of_use_that_cannot_be_written_breaks_nothing(registry):
    key, _ = registry.key()
    registry.database._ready = _away
    registry.credentials.mark_used(key.id)


def test_a_database_that_has_frozen_is_waited_for_in_bounds(postgres_server, tmp_path, postgres_url):
    registry = open_registry(make_url(postgres_url), tmp_path, time.time())
    _, shown = registry.key()
    who = registry.who(shown)
    registry.database._patience = 0.3
    with registry.database.look() as connection, pytest.raises(Exception, match=r"terminat|closed|lost|EOF"):
        connection.execute(text("SELECT pg_sleep(5)"))
    registry.hands.now += 1
    assert registry.who(shown) == who, "the next connection is a new one"
    registry.database.close()


# Those who guess.


def wrong_key(key_id: str = "") -> str:
    return f"llm_{key_id or random.randbytes(6).hex()}_{new_secret()}"


def test_the_eleventh_wrong_key_of_an_address_in_a_minute_is_not_looked_at(registry):
    _, shown = registry.key()
    registry.who(shown)
    for _ in range(MOST_GUESSES):
        refused(registry, wrong_key())
    with pytest.raises(LockedOut) as locked:
        registry.who(wrong_key())
    assert 0 < locked.value.retry_after <= WINDOW_SECONDS
    assert registry.who(shown), "a caller who is known goes on, from the same address too"
    assert refused(registry, wrong_key(), "192.0.2.2") == "unknown"
    assert [line["which"] for line in registry.events("AUTH_LOCKOUT")] == [ADDRESS]
    assert len(registry.events("AUTH_FAILURE")) == MOST_GUESSES + 1
    registry.hands.now += locked.value.retry_after
    assert refused(registry, wrong_key()) == "unknown"


def test_a_prefix_is_locked_across_addresses_and_its_right_key_is_not(registry):
    key, shown = registry.key()
    for number in range(MOST_GUESSES):
        assert refused(registry, wrong_key(key.id), f"192.0.2.{number}") == "secret"
    with pytest.raises(LockedOut):
        registry.who(wrong_key(key.id), "198.51.100.1")
    assert registry.who(shown, "198.51.100.2").key_id == key.id
    assert [line["which"] for line in registry.events("AUTH_LOCKOUT")] == [f"llm_{key.id}"]


def test_a_program_that_goes_on_with_a_key_that_is_over_locks_nobody_out(registry):
    revoked, ended, new = (
        registry.key(),
        registry.key(expires_us=round((registry.hands.now + 1) * 1e6)),
        registry.key(),
    )
    registry.accounts.revoke_key(revoked[0].id, OPERATOR)
    registry.hands.now += 2
    for _ in range(MOST_GUESSES):
        assert refused(registry, revoked[1]) == "revoked"
        assert refused(registry, ended[1]) == "expired"
    assert registry.who(new[1]).key_id == new[0].id, "from the same address, and seen for the first time"
    assert not registry.events("AUTH_LOCKOUT")


def test_all_of_an_ipv6_network_is_one_who_guesses(registry):
    """One subscriber has 2**64 addresses; ten guesses for each would be no lock."""
    for number in range(MOST_GUESSES):
        assert refused(registry, wrong_key(), f"2001:db8::{number:x}") == "unknown"
    with pytest.raises(LockedOut):
        registry.who(wrong_key(), "2001:db8::ffff")
    assert refused(registry, wrong_key(), "2001:db8:0:1::1") == "unknown"


def test_a_flood_of_guesses_from_everywhere_locks_nobody_else_out_and_frees_no_name(registry, monkeypatch):
    monkeypatch.setattr(guesses, "MOST_NAMES", 100)
    fresh = guesses.Guesses(timer=registry.hands)
    for _ in range(MOST_GUESSES):
        fresh.refusal("password", "192.0.2.1", name="ada")
    for number in range(10 * guesses.MOST_NAMES):
        fresh.check(f"2001:db8:{number:x}::1")
        assert isinstance(fresh.refusal("unknown", f"2001:db8:{number:x}::1", wrong_key()), Unauthorized)
    fresh.check("198.51.100.1", "grace")
    with pytest.raises(LockedOut):
        fresh.check("198.51.100.1", "ada")


def test_a_lock_says_when_it_ends_to_the_second(registry):
    for _ in range(MOST_GUESSES):
        refused(registry, wrong_key())
    registry.hands.now += 20
    with pytest.raises(LockedOut) as locked:
        registry.who(wrong_key())
    assert locked.value.retry_after == WINDOW_SECONDS - 20


def test_what_cannot_be_a_key_locks_nobody_out(registry):
    _, shown = registry.key()
    for number in range(3 * MOST_GUESSES):
        refused(registry, f"noise-{number}")
        refused(registry, f"eyJhbGciOiJIUzI1NiJ9.e30.forged{number}")
    assert registry.who(shown).key_id


def test_a_lockout_is_told_once_a_window(registry):
    for _ in range(5 * MOST_GUESSES):
        with pytest.raises((Unauthorized, LockedOut)):
            registry.who(wrong_key())
        registry.hands.now += 2
    assert len(registry.events("AUTH_LOCKOUT")) == 2


def test_audit_lines_show_a_prefix_and_never_a_secret(registry):
    key, _ = registry.key()
    wrong = wrong_key(key.id)
    refused(registry, wrong)
    refused(registry, "sk-" + "x" * 40)
    told = str(registry.lines)
    assert f"llm_{key.id}" in told
    assert wrong[-43:-30] not in told
    assert "sk-" not in told


def injections(count: int) -> Iterator[str]:
    seeds = [
        "' OR '1'='1",
        "llm_' OR 1=1 --_x",
        "'; DROP TABLE api_keys; --",
        "llm_%_%",
        "${jndi:ldap://x}",
        "{{7*7}}",
        "../../etc/passwd",
        "\x00",
        "\ud800",
        "%00",
        "é" * 10,
        "llm_" + "0" * 12 + "_' OR ''='",
        '"',
        "\\",
        "null",
        "1 UNION SELECT secret_mac FROM api_keys",
        "\r\nX-Role: admin",
        "A" * 9000,
    ]
    spice = random.Random(1)
    for number in range(count):
        seed = seeds[number % len(seeds)]
        place = spice.randrange(len(seed) + 1)
        yield (
            seed[:place]
            + "".join(spice.choices(string.punctuation, k=number // len(seeds) % 9))
            + seed[place:]
        )


def test_a_thousand_injections_are_refused_alike_and_never_reach_the_database(registry):
    asked: list[str] = []
    registry.database._ready = lambda: asked.append("asked")
    bodies = set()
    for injection in injections(1000):
        for authorization, api_key in ((f"Bearer {injection}", None), (None, injection)):
            with pytest.raises(Unauthorized) as refusal:
                registry.auth.identify(authorization, api_key, ADDRESS)
            bodies.add((refusal.value.status, refusal.value.code, str(refusal.value)))
    assert len(bodies) == 1
    assert not asked


def test_the_time_of_a_comparison_does_not_tell_how_much_of_a_key_is_right():
    """On digests of a megabyte, where a comparison that stops at the first difference is a thousand times as quick as
    one that does not: in 32 bytes nothing can tell the two apart from the machine's own noise."""
    right = random.Random(1).randbytes(1 << 20)
    first, last = (bytes([right[0] ^ 255]) + right[1:], right[:-1] + bytes([right[-1] ^ 255]))
    assert not matches(first, right)
    assert _quickest(first, right) > _quickest(last, right) / 4


def _quickest(given: bytes, right: bytes) -> float:
    return min(timeit.repeat(lambda: matches(given, right), number=1, repeat=20))


def test_every_refusal_of_a_key_takes_the_same_steps(registry, monkeypatch):
    key, shown = registry.key()
    registry.accounts.revoke_key(key.id, OPERATOR)
    looks: list[str] = []
    look = registry.auth._credentials.key
    monkeypatch.setattr(
        registry.auth._credentials, "key", lambda key_id: looks.append(key_id) or look(key_id)
    )
    for number, credential in enumerate((shown, wrong_key(), wrong_key(key.id))):
        refused(registry, credential, f"192.0.2.{number}")
    assert len(looks) == 3


def test_a_known_caller_costs_at_most_a_twentieth_of_a_millisecond(registry):
    header = f"Bearer {registry.key()[1]}"
    registry.auth.identify(header, None, ADDRESS)
    rounds = []
    for _ in range(5):
        begun = time.thread_time()  # what others do on this machine meanwhile is no cost of ours
        for _ in range(1000):
            registry.auth.identify(header, None, ADDRESS)
        rounds.append((time.thread_time() - begun) / 1000)
    assert min(rounds) < 0.000_05


# The first administrator.


def test_the_bootstrap_token_works_once_in_all_processes_and_is_kept_as_a_digest(make_registry):
    token = new_secret()
    registry, other = make_registry(admin_bootstrap_token=token), make_registry(admin_bootstrap_token=token)
    with pytest.raises(Unauthorized):
        registry.auth.bootstrap(new_secret(), ADDRESS)
    key, shown = registry.auth.bootstrap(token, ADDRESS)
    assert Scope.ADMIN in registry.who(shown).scopes
    for each in (registry, other):
        with pytest.raises(Unauthorized):
            each.auth.bootstrap(token, ADDRESS)
    assert [line["id"] for line in registry.events("BOOTSTRAP_USED")] == [key.id]
    with registry.database.look() as connection:
        assert token not in str(connection.execute(text("SELECT * FROM vault")).all())
    with pytest.raises(Unauthorized):
        make_registry().auth.bootstrap("", ADDRESS)


def test_without_their_secrets_postgresql_takes_no_keys_and_no_passwords(postgres_url, tmp_path):
    """Each instance would make up its own, and the keys of one would be worthless at the next."""
    from errors import SwitchedOff

    registry = open_registry(
        make_url(postgres_url), tmp_path, time.time(), database_url=postgres_url, auth="open"
    )
    with pytest.raises(SwitchedOff, match="API_KEY_PEPPER"):
        registry.key()
    refused(registry, wrong_key())
    with pytest.raises(SwitchedOff, match="JWT_SECRET_KEY"):
        registry.auth.sign_in("ada", PASSWORD, ADDRESS)
    assert not list(tmp_path.glob("*_*"))
    registry.database.close()
