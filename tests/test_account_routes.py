"""Keys, users and sign-ins over HTTP: what may be made and changed, by whom, and what is told of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.account_bodies import MOST_PAGE_SIZE
from conftest import House
from identity import OPERATOR
from security.api_keys import new_secret
from tests.account_house import PASSWORD, UNUSED
from tests.tenants import KEYS, ONE_ID, PROMPT, TEXT, USERS, Town, town

SIGN_IN, REVOKE, BOOTSTRAP = "/api/v1/auth/token", "/api/v1/auth/revoke", "/api/v1/auth/bootstrap"
LATER = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="seconds")


@pytest.fixture
def here(make_house: Callable[..., House]) -> Town:
    return town(make_house, rate_limit="1000000 per minute")


def lines(here: Town, event: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in here.house.lines("security_audit.log")]
    return [line for line in found if line["event"] == event]


def make(here: Town, maker: str = "developer", **body: Any) -> Any:
    return here.ask("POST", KEYS, here.home.text(maker), {"name": "made", **body})


def ids(here: Town) -> list[str]:
    return [key["id"] for key in here.ask("GET", KEYS, here.home.text("admin")).get_json()["keys"]]


# Keys.


def test_a_key_is_made_is_shown_once_and_serves(here):
    reply = make(here)
    made = reply.get_json()
    assert reply.status_code == 201
    assert made["key"].startswith(f"llm_{made['id']}_")
    assert (made["role"], made["user_id"]) == ("developer", here.home.people["developer"].id)
    assert here.ask("POST", TEXT, made["key"], PROMPT).status_code == 200
    assert here.house.client.post(TEXT, json=PROMPT, headers={"X-API-Key": made["key"]}).status_code == 200
    secret = made["key"].rpartition(f"{made['id']}_")[2]
    for reply in (
        here.ask("GET", f"{KEYS}/{made['id']}", here.home.text("developer")),
        here.ask("GET", KEYS, here.home.text("developer")),
        here.ask("PATCH", f"{KEYS}/{made['id']}", here.home.text("developer"), {"name": "renamed"}),
    ):
        assert reply.status_code == 200
        assert secret not in reply.text
        assert "mac" not in reply.text


def test_all_that_a_key_can_have_is_taken_and_told(here):
    body = {
        "role": "developer",
        "scopes": ["tasks"],
        "models": ["sandbox-1"],
        "rate_limit": "3 per minute",
        "expires": LATER,
        "budget": {"period": "day", "limit_usd": "12.50", "soft_usd": 10.25},
        "user_id": here.home.people["developer"].id,
    }
    made = make(here, "admin", **body).get_json()
    assert {name: made[name] for name in body if name not in ("budget", "expires")} == {
        name: value for name, value in body.items() if name not in ("budget", "expires")
    }
    assert datetime.fromisoformat(made["expires"]) == datetime.fromisoformat(LATER)
    assert made["budget"] == UNUSED | {
        "period": "day",
        "limit_usd": "12.500000000",
        "soft_usd": "10.250000000",
        "left_usd": "12.500000000",
    }
    later = here.ask(
        "PATCH",
        f"{KEYS}/{made['id']}",
        here.home.text("admin"),
        {"budget": None, "models": [], "expires": None},
    ).get_json()
    assert (later["budget"], later["models"], later["expires"]) == (None, [], None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", None),
        ("name", "a\0b"),
        ("name", "x" * 101),
        ("role", "root"),
        ("role", ["admin"]),
        ("scopes", "tasks"),
        ("scopes", ["everything"]),
        ("scopes", [["tasks"]]),
        ("models", "sandbox-1"),
        ("models", ["a b"]),
        ("models", ["x"] * 51),
        ("rate_limit", "often"),
        ("rate_limit", "5 per 2 years"),
        ("rate_limit", 10),
        ("expires", "2020-01-01T00:00:00+00:00"),
        ("expires", "2099-01-01T00:00:00"),
        ("expires", 4102444800),
        ("expires", "9999-12-31T23:59:59-23:59"),
        ("budget", 10),
        ("budget", {"period": "week", "limit_usd": 1}),
        ("budget", {"period": "day"}),
        ("budget", {"period": "day", "limit_usd": -1}),
        ("budget", {"period": "day", "limit_usd": 1e300}),
        (
            "budget",
            {"period": "day", "limit_usd": 123456789.123456789},
        ),  # which floats cannot tell from ...790
        ("budget", {"period": "day", "limit_usd": "0.0000000001"}),
        ("budget", {"period": "day", "limit_usd": "1e999999999"}),
        ("budget", {"period": "day", "limit_usd": 1, "limit": 2}),
        ("budget", {"period": "day", "limit_usd": "1", "soft_usd": "1.000000001"}),
        ("budget", {"period": "day", "limit_usd": "1", "soft_usd": "1"}),
        ("budget", {"period": "day", "soft_usd": 0}),
        ("user_id", 7),
        ("organisation", "x"),
        ("secret_mac", "x"),
        ("id", "0" * 12),
        ("is_admin", True),
    ],
)
def test_what_a_key_cannot_have_is_refused_by_name(here, field, value):
    before = ids(here)
    reply = here.ask("POST", KEYS, here.home.text("admin"), {"name": "made", field: value})
    assert reply.status_code == 400, reply.text
    assert reply.get_json()["field"].split(".")[0] == field, reply.text
    assert ids(here) == before


def test_a_new_role_without_scopes_gives_all_of_its_scopes_and_swagger_says_so(here):
    admin, wide = here.home.text("admin"), ["keys", "reports", "tasks"]
    made = make(here, "admin", user_id="", scopes=["tasks"]).get_json()

    def changed(**body: Any) -> Any:
        return here.ask("PATCH", f"{KEYS}/{made['id']}", admin, body).get_json()["scopes"]

    assert changed(role="developer", scopes=["tasks"]) == ["tasks"]
    assert (changed(role="developer"), changed(scopes=["reports"])) == (wide, ["reports"])
    swagger = here.ask("GET", "/api/v1/swagger.json", admin).get_json()
    assert (
        "all scopes of this role" in swagger["definitions"]["ChangedKey"]["properties"]["role"]["description"]
    )
    assert "send both" in swagger["paths"]["/keys/{key_id}"]["patch"]["description"]
    assert "default" not in swagger["definitions"]["ChangedKey"]["properties"]["role"]


@pytest.mark.parametrize(
    "body",
    [
        {"role": "admin"},
        {"role": "admin", "scopes": ["tasks", "admin"]},
        {"user_id": "another's"},
        {"user_id": ""},
    ],
)
def test_a_developer_makes_no_key_beyond_their_own(here, body):
    if body.get("user_id"):
        body = {"user_id": here.home.people["admin"].id}
    assert make(here, "developer", **body).status_code == 403
    assert lines(here, "AUTHZ_DENIED")


def test_a_key_of_fewer_scopes_makes_none_with_more(here):
    _, fewer = here.key(here.home, "developer", "developer", scopes=["keys", "tasks"])
    assert here.ask("POST", KEYS, fewer, {"name": "made"}).status_code == 403
    made = here.ask("POST", KEYS, fewer, {"name": "made", "scopes": ["tasks"]})
    assert made.get_json()["scopes"] == ["tasks"]
    _, none = here.key(here.home, "developer", "developer", scopes=["tasks"])
    assert here.ask("POST", KEYS, none, {"name": "made", "scopes": ["tasks"]}).status_code == 403


@pytest.mark.parametrize("role", ["developer", "admin"])
@pytest.mark.parametrize(
    "limit",
    [
        {"rate_limit": "5 per minute"},
        {"models": ["sandbox-1"]},
        {"expires_us": int(datetime.now(UTC).timestamp() + 3600) * 10**6},
    ],
)
def test_a_limited_key_makes_no_unlimited_one_and_loosens_none(here, role, limit):
    key, text = here.key(here.home, role, role, **limit)
    assert here.ask("POST", KEYS, text, {"name": "made", "role": "viewer"}).status_code == 403
    for change in ({"rate_limit": ""}, {"models": []}, {"expires": None}, {"budget": None}):
        assert here.ask("PATCH", f"{KEYS}/{key.id}", text, change).status_code == 403, change
    other = here.key(here.home, role, role)[0].id
    assert here.ask("POST", f"{KEYS}/{other}/rotate", text).status_code == 403
    if role == "admin":
        assert here.ask("POST", USERS, text, {"name": "second", "role": "admin"}).status_code == 403
        victim = here.home.people["victim"].id
        assert here.ask("PATCH", f"{USERS}/{victim}", text, {"role": "admin"}).status_code == 403
    assert here.ask("PATCH", f"{KEYS}/{key.id}", text, {"name": "renamed"}).status_code == 200
    assert here.ask("POST", f"{KEYS}/{key.id}/rotate", text).status_code == 200
    assert here.ask("DELETE", f"{KEYS}/{other}", text).status_code == 200


def test_a_key_of_no_user_manages_itself_and_what_it_made_and_nothing_else(here):
    own, text = here.key(here.home, "developer")
    made = here.ask("POST", KEYS, text, {"name": "made"}).get_json()
    listed = [key["id"] for key in here.ask("GET", KEYS, text).get_json()["keys"]]
    assert listed == [own.id, made["id"]]
    assert here.ask("PATCH", f"{KEYS}/{made['id']}", text, {"name": "renamed"}).status_code == 200
    other, others = here.key(here.home, "developer")
    for key_id in (own.id, made["id"]):
        assert here.ask("GET", f"{KEYS}/{key_id}", others).status_code == 404
    for key_id in (own.id, other.id, here.home.keys["developer"][0].id):
        assert here.ask("GET", f"{KEYS}/{key_id}", made["key"]).status_code == 404
    assert here.ask("DELETE", f"{KEYS}/{made['id']}", text).status_code == 200


@pytest.mark.parametrize("somebody", ["of another tenant", "nobody at all"])
def test_a_user_of_another_tenant_gets_no_key_here_as_if_there_were_none(here, somebody):
    user_id = here.away.people["viewer"].id if somebody == "of another tenant" else somebody
    reply = make(here, "admin", user_id=user_id)
    assert reply.status_code == 404
    told = reply.get_json()
    assert told["field"] == "user_id"
    assert told["error"].startswith("`user_id` names no user of this organisation.")


def test_a_rotated_key_has_two_secrets_until_its_grace_is_over(here):
    made = make(here).get_json()
    path = f"{KEYS}/{made['id']}/rotate"
    turned = here.ask("POST", path, here.home.text("developer")).get_json()
    assert turned["id"] == made["id"]
    assert turned["key"] != made["key"]
    for text in (made["key"], turned["key"]):
        assert here.ask("GET", "/api/v1/stats", text).status_code == 200
    last = here.ask("POST", path, here.home.text("developer"), {"grace_seconds": 0}).get_json()
    here.house.services.auth._known.clear()  # as half a second later
    statuses = [
        here.ask("GET", "/api/v1/stats", text).status_code
        for text in (made["key"], turned["key"], last["key"])
    ]
    assert statuses == [401, 401, 200]


def test_the_owner_of_a_key_gives_it_scopes_that_they_have_and_a_key_itself_only_gives_them_up(here):
    owner = here.home.text("developer")
    key, text = here.key(here.home, "developer", "developer", scopes=["tasks", "keys"])
    path = f"{KEYS}/{key.id}"
    assert here.ask("PATCH", path, text, {"scopes": ["reports", "keys"]}).status_code == 403
    assert here.ask("PATCH", path, owner, {"scopes": ["admin"]}).status_code == 400
    widened = here.ask("PATCH", path, owner, {"scopes": ["tasks", "keys", "reports"]})
    assert widened.get_json()["scopes"] == ["keys", "reports", "tasks"]
    here.house.services.auth._known.clear()  # as half a second later
    assert here.ask("PATCH", path, text, {"scopes": ["keys"]}).get_json()["scopes"] == ["keys"]
    told = here.ask("GET", "/api/v1/swagger.json", owner).get_json()["paths"]["/keys/{key_id}"]["patch"]
    assert "fewer or more" in told["summary"] + told.get("description", "")


def test_the_old_secret_of_a_rotated_key_cannot_take_the_key_over(here):
    old, admin = here.home.text("developer"), here.home.text("admin")
    key_id = here.home.keys["developer"][0].id
    turned = here.ask("POST", f"{KEYS}/{key_id}/rotate", old).get_json()
    here.house.services.auth._known.clear()  # as half a second later
    assert here.ask("POST", TEXT, old, PROMPT).status_code == 200
    for method, path, body in (
        ("POST", f"{KEYS}/{key_id}/rotate", {"grace_seconds": 0}),
        ("POST", KEYS, {"name": "mine"}),
        ("DELETE", f"{KEYS}/{key_id}", None),
        ("GET", KEYS, None),
    ):
        assert here.ask(method, path, old, body).status_code == 403, (method, path)
    assert here.ask("PATCH", f"{KEYS}/{key_id}", turned["key"], {"name": "still-mine"}).status_code == 200
    assert here.ask("POST", f"{KEYS}/{key_id}/rotate", admin, {"grace_seconds": 0}).status_code == 200


@pytest.mark.parametrize("grace", [-1, 604_801, "1", None, True, 1e400])
def test_a_grace_is_a_number_of_seconds_up_to_a_week(here, grace):
    key = here.key(here.home, "viewer", "developer")[0].id
    reply = here.ask("POST", f"{KEYS}/{key}/rotate", here.home.text("developer"), {"grace_seconds": grace})
    assert reply.status_code == 400
    assert grace == 1e400 or reply.get_json()["field"] == "grace_seconds"


def test_a_revoked_key_stays_in_the_list_and_serves_nobody(here):
    made = make(here).get_json()
    path = f"{KEYS}/{made['id']}"
    gone = here.ask("DELETE", path, here.home.text("developer"))
    assert (gone.status_code, bool(gone.get_json()["revoked"])) == (200, True)
    here.house.services.auth._known.clear()
    assert here.ask("POST", TEXT, made["key"], PROMPT).status_code == 401
    assert here.ask("DELETE", path, here.home.text("developer")).get_json() == gone.get_json()
    assert here.ask("PATCH", path, here.home.text("developer"), {"name": "x"}).status_code == 409
    assert here.ask("POST", f"{path}/rotate", here.home.text("developer")).status_code == 409
    assert made["id"] in here.ask("GET", KEYS, here.home.text("developer")).text


def test_lists_are_paged_in_the_order_of_making_and_capped(here):
    for number in range(7):
        here.key(here.home, "viewer", "developer", name=f"key-{number}")
    here.key(here.away, "viewer", "developer", name="elsewhere")
    names, after = [], ""
    while after is not None:
        page = here.ask("GET", f"{KEYS}?limit=3&after={after}", here.home.text("developer")).get_json()
        assert len(page["keys"]) <= 3
        names += [key["name"] for key in page["keys"]]
        after = page["next"]
    assert names == ["developer", *(f"key-{number}" for number in range(7))]
    every = here.ask("GET", KEYS, here.home.text("admin")).get_json()["keys"]
    assert {key["organisation"] for key in every} == {here.home.organisation.id}
    assert len(every) == 10
    users = here.ask("GET", f"{USERS}?limit=2", here.home.text("admin")).get_json()
    assert [user["name"] for user in users["users"]] == ["home-admin", "home-developer"]
    assert users["next"] == here.home.people["developer"].id


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        f"limit={MOST_PAGE_SIZE + 1}",
        "limit=x",
        "after=nowhere",
        "after=%00",
        "after=é",
        "all=1",
        "limit=1&limit=2",
    ],
)
def test_a_page_that_cannot_be_is_refused_by_name(here, query):
    reply = here.ask("GET", f"{KEYS}?{query}", here.home.text("admin"))
    assert (reply.status_code, reply.get_json()["field"]) == (400, query.partition("=")[0])


def test_a_page_begins_after_no_key_of_another_tenant(here):
    other = here.away.keys["admin"][0].id
    there = here.ask("GET", f"{KEYS}?after={other}", here.home.text("admin"), **ONE_ID)
    nowhere = here.ask("GET", f"{KEYS}?after={'0' * 12}", here.home.text("admin"), **ONE_ID)
    assert (there.status_code, there.data) == (400, nowhere.data)


# Users.


def test_an_admin_makes_changes_and_locks_out_a_user(here):
    admin = here.home.text("admin")
    made = here.ask("POST", USERS, admin, {"name": "Grace", "role": "developer", "password": PASSWORD})
    assert (made.status_code, made.get_json()["name"]) == (201, "grace")
    grace = made.get_json()["id"]
    tokens = here.ask("POST", SIGN_IN, body={"name": "grace", "password": PASSWORD}).get_json()
    assert here.ask("POST", TEXT, tokens["access_token"], PROMPT).status_code == 200
    changed = here.ask(
        "PATCH", f"{USERS}/{grace}", admin, {"role": "viewer", "budget": {"period": "month", "limit_usd": 5}}
    )
    assert changed.get_json()["role"] == "viewer"
    here.house.services.auth._known.clear()
    assert here.ask("POST", TEXT, tokens["access_token"], PROMPT).status_code == 403
    gone = here.ask("DELETE", f"{USERS}/{grace}", admin)
    assert (gone.status_code, gone.get_json()["active"]) == (200, False)
    here.house.services.auth._known.clear()
    assert here.ask("GET", "/api/v1/stats", tokens["access_token"]).status_code == 401
    assert here.ask("POST", USERS, admin, {"name": "GRACE", "role": "viewer"}).status_code == 409


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"role": "viewer"}, "name"),
        ({"name": "x"}, "role"),
        ({"name": "a b", "role": "viewer"}, "name"),
        ({"name": "x", "role": "viewer", "password": "short"}, "password"),
        ({"name": "x", "role": "viewer", "password": 7}, "password"),
        ({"name": "x", "role": "viewer", "organisation": "y"}, "organisation"),
        ({"name": "x", "role": "viewer", "active": False}, "active"),
    ],
)
def test_what_a_user_cannot_be_is_refused_by_name(here, body, field):
    reply = here.ask("POST", USERS, here.home.text("admin"), body)
    assert (reply.status_code, reply.get_json()["field"]) == (400, field)


# Signing in.


@pytest.fixture
def ada(here: Town) -> dict[str, str]:
    here.house.services.accounts.create_user(
        "ada", "developer", OPERATOR, organisation=here.home.organisation.id, password=PASSWORD
    )
    return {"name": "ada", "password": PASSWORD}


def test_a_password_brings_tokens_that_serve_until_they_are_revoked(here, ada):
    tokens = here.ask("POST", SIGN_IN, body=ada).get_json()
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 900)
    assert here.ask("POST", TEXT, tokens["access_token"], PROMPT).status_code == 200
    following = here.ask("POST", SIGN_IN, body={"refresh_token": tokens["refresh_token"]}).get_json()
    assert here.ask("GET", KEYS, following["access_token"]).status_code == 200
    assert here.ask("POST", TEXT, tokens["refresh_token"], PROMPT).status_code == 401
    assert here.ask("POST", REVOKE, body={"token": following["refresh_token"]}).get_json() == {
        "revoked": True
    }
    for text in (tokens["access_token"], following["access_token"]):
        assert here.ask("GET", KEYS, text).status_code == 401


def test_a_signed_in_developer_makes_keys_of_their_own(here, ada):
    token = here.ask("POST", SIGN_IN, body=ada).get_json()["access_token"]
    made = here.ask("POST", KEYS, token, {"name": "mine", "rate_limit": "5 per minute"}).get_json()
    assert [key["id"] for key in here.ask("GET", KEYS, token).get_json()["keys"]] == [made["id"]]


def test_every_sign_in_that_is_not_good_is_one_401(here, ada):
    tokens = here.ask("POST", SIGN_IN, body=ada).get_json()
    bodies = set()
    for number, (path, body) in enumerate(
        [
            (SIGN_IN, ada | {"password": "wrong"}),
            (SIGN_IN, ada | {"name": "nobody"}),
            (SIGN_IN, {"refresh_token": tokens["access_token"]}),
            (SIGN_IN, {"refresh_token": "x"}),
            (REVOKE, {"token": "x"}),
            (REVOKE, {"token": tokens["access_token"] + "x"}),
            (BOOTSTRAP, {"token": "x"}),
        ]
    ):
        reply = here.ask("POST", path, body=body, address=f"192.0.2.{number}", **ONE_ID)
        assert reply.status_code == 401, (path, body)
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")
        bodies.add(reply.data)
    assert len(bodies) == 1


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (SIGN_IN, {}, "name"),
        (SIGN_IN, {"name": "ada"}, "password"),
        (SIGN_IN, {"name": "ada", "password": ["x"]}, "password"),
        (SIGN_IN, {"name": "ada", "password": "x" * 8193}, "password"),
        (SIGN_IN, {"name": "ada", "refresh_token": "x"}, "refresh_token"),
        (SIGN_IN, {"name": "ada", "password": "x", "grant_type": "password"}, "grant_type"),
        (REVOKE, {"token": 7}, "token"),
        (BOOTSTRAP, {"key": "x"}, "key"),
    ],
)
def test_a_sign_in_that_cannot_be_read_is_refused_by_name(here, path, body, field):
    reply = here.ask("POST", path, body=body)
    assert (reply.status_code, reply.get_json()["field"]) == (400, field)


def test_the_bootstrap_token_makes_one_administrators_key(make_house):
    token = new_secret()
    here = town(make_house, admin_bootstrap_token=token, rate_limit="1000000 per minute")
    first = here.ask("POST", BOOTSTRAP, body={"token": token})
    assert (first.status_code, first.get_json()["role"]) == (201, "admin")
    assert here.ask("GET", USERS, first.get_json()["key"]).status_code == 200
    assert here.ask("POST", BOOTSTRAP, body={"token": token}).status_code == 401
    (line,) = lines(here, "BOOTSTRAP_USED")
    assert line["severity"] == "HIGH"


# What is told of it.


def test_each_change_is_an_audit_line_with_who_what_from_and_to(here):
    admin, by = here.home.text("admin"), here.home.keys["admin"][0].id
    key = make(here, "admin", name="first").get_json()
    here.ask("PATCH", f"{KEYS}/{key['id']}", admin, {"name": "second", "role": "viewer"})
    here.ask("POST", f"{KEYS}/{key['id']}/rotate", admin)
    here.ask("DELETE", f"{KEYS}/{key['id']}", admin)
    user = here.ask("POST", USERS, admin, {"name": "grace", "role": "viewer"}).get_json()
    here.ask("PATCH", f"{USERS}/{user['id']}", admin, {"role": "developer", "password": PASSWORD})
    for event, subject in (
        ("KEY_CREATED", key["id"]),
        ("KEY_CHANGED", key["id"]),
        ("KEY_ROTATED", key["id"]),
        ("KEY_REVOKED", key["id"]),
        ("USER_CREATED", user["id"]),
        ("USER_CHANGED", user["id"]),
    ):
        (line,) = [each for each in lines(here, event) if each["details"]["by_id"] == by]
        assert (line["details"]["by"], line["details"]["id"]) == ("key", subject)
        assert line["tenant"] == here.home.organisation.id
    (changed,) = [each for each in lines(here, "KEY_CHANGED") if each["details"]["by_id"] == by]
    assert (changed["details"]["from"]["name"], changed["details"]["to"]["name"]) == ("first", "second")


def test_no_secret_is_in_any_log(here, ada):
    made = make(here).get_json()
    turned = here.ask("POST", f"{KEYS}/{made['id']}/rotate", here.home.text("developer")).get_json()
    tokens = here.ask("POST", SIGN_IN, body=ada).get_json()
    here.ask("POST", TEXT, tokens["access_token"], PROMPT)
    here.ask("POST", SIGN_IN, body={"refresh_token": tokens["refresh_token"]})
    secrets = [
        made["key"][17:],
        turned["key"][17:],
        PASSWORD,
        tokens["access_token"],
        tokens["refresh_token"],
    ]
    for name in ("api_requests", "api_errors", "security_audit", "performance", "cost_tracking"):
        told = "\n".join(here.house.lines(f"{name}.log"))
        for secret in secrets:
            assert secret[-24:] not in told
            assert secret[:24] not in told or secret.startswith("eyJ")
