"""Every route, every role, every owner: who gets in is as the table here says, and nothing gets around it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from api.guard import PAGES, TABLE
from conftest import House
from errors import InvalidInput
from tests.tenants import KEYS, ONE_ID, PROMPT, TEXT, USERS, Town, town

# Who is let in, a letter each: viewers, developers, admins; N is a caller with no key where AUTH=open, and S is a stranger:
# a caller with no key where AUTH=required.
ALL, KNOWN = "SNVDA", "NVDA"
CELLS: dict[str, dict[str, str]] = {
    "/api/v1/health/live": {"GET": ALL},
    "/api/v1/auth/token": {"POST": ALL},
    "/api/v1/auth/revoke": {"POST": ALL},
    "/api/v1/auth/bootstrap": {"POST": ALL},
    "/": {"GET": KNOWN},
    "/api/v1/": {"GET": KNOWN},
    "/api/v2/": {"GET": KNOWN},
    "/api/v1/health": {"GET": KNOWN},
    "/api/v1/health/ready": {"GET": KNOWN},
    "/api/v1/swagger.json": {"GET": KNOWN},
    "/api/v2/swagger.json": {"GET": KNOWN},
    "/swagger/": {"GET": KNOWN},
    "/api/v2/swagger/": {"GET": KNOWN},
    "/swaggerui/<path:filename>": {"GET": KNOWN},
    "/api/v2/models": {"GET": KNOWN},
    "/api/v2/models/<path:model>": {"GET": KNOWN},
    "/metrics": {"GET": "N"},
    "/api/v1/stats": {"GET": KNOWN},
    "/api/v1/usage": {"GET": KNOWN},
    "/api/v1/usage/forecast": {"GET": KNOWN},
    "/api/v1/usage/forecast/quality": {"GET": KNOWN},
    "/dashboard/*": {"GET": KNOWN},
    "/api/v1/usage/export": {"GET": "NA"},
    "/api/v1/generate/text": {"POST": "NDA"},
    "/api/v1/generate/code": {"POST": "NDA"},
    "/api/v1/classify/text": {"POST": "NDA"},
    "/api/v1/classify/feedback": {"POST": "NDA"},
    "/api/v2/chat/completions": {"POST": "NDA"},
    "/api/v2/embeddings": {"POST": "NDA"},
    "/api/v1/keys": {"GET": "DA", "POST": "DA"},
    "/api/v1/keys/<string:key_id>": {"GET": "DA", "PATCH": "DA", "DELETE": "DA"},
    "/api/v1/keys/<string:key_id>/rotate": {"POST": "DA"},
    "/api/v1/users": {"GET": "A", "POST": "A"},
    "/api/v1/users/<string:user_id>": {"PATCH": "A", "DELETE": "A"},
}
LETTERS = {"V": "viewer", "D": "developer", "A": "admin"}
# Flask-RESTX keeps addresses there and shows nothing at them.
ROOTS = ("/api/v1/", "/api/v2/")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
BODIES: dict[str, Any] = {
    "/api/v1/generate/text": PROMPT,
    "/api/v1/generate/code": PROMPT,
    "/api/v1/classify/text": {"text": "x", "categories": ["a", "b"]},
    "/api/v1/classify/feedback": {"request_id": "no-such", "correct_category": "a"},
    "/api/v2/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
    "/api/v2/embeddings": {"input": "x"},
    "/api/v1/keys": {"name": "another", "role": "viewer"},
    "/api/v1/keys/<string:key_id>": {"name": "renamed"},
    "/api/v1/users": {"name": "somebody", "role": "viewer"},
    "/api/v1/users/<string:user_id>": {"role": "viewer"},
}


@pytest.fixture
def required(make_house: Callable[..., House]) -> Town:
    return town(make_house)


@pytest.fixture
def open_town(make_house: Callable[..., House]) -> Town:
    return town(make_house, auth="open")


def rules(house: House) -> Iterator[tuple[str, str, frozenset[str]]]:
    for rule in house.app.url_map.iter_rules():
        methods = frozenset(rule.methods or ()) - {"OPTIONS", "HEAD"}
        yield rule.endpoint, rule.rule, methods


def cell_of(rule: str) -> dict[str, str]:
    return CELLS["/dashboard/*"] if rule.startswith("/dashboard/") else CELLS[rule]


def address_of(rule: str, key_id: str, user_id: str) -> str:
    given = {"key_id": key_id, "user_id": user_id}
    address = rule.replace("<path:filename>", "swagger-ui.css").replace("<path:model>", "default")
    for name, value in given.items():
        address = address.replace(f"<string:{name}>", value)
    return address


# The table.


def test_every_endpoint_and_method_stands_in_the_table_and_nothing_else(house):
    there = {(endpoint, method) for endpoint, _, methods in rules(house) for method in methods}
    assert there == {(endpoint, method) for endpoint, cell in TABLE.items() for method in cell}
    told = {(rule, method) for _, rule, methods in rules(house) for method in methods}
    assert {rule for rule, _ in told if not rule.startswith("/dashboard/")} == set(CELLS) - {"/dashboard/*"}
    assert all(method in cell_of(rule) for rule, method in told)


@pytest.mark.parametrize("auth", ["open", "required"])
def test_what_the_table_lacks_is_refused_to_everybody(make_house, auth):
    here = town(make_house, auth=auth)
    here.house.app.add_url_rule("/api/v1/new", view_func=lambda: "let in", methods=["GET", "POST"])
    for method in ("GET", "POST"):
        assert here.ask(method, "/api/v1/new").status_code == 401
        assert here.ask(method, "/api/v1/new", here.home.text("admin")).status_code == 403


@pytest.mark.parametrize("auth", ["open", "required"])
def test_each_cell_of_route_and_role_is_as_the_table_says(make_house, auth):
    here = town(make_house, auth=auth)
    walked = 0
    for _, rule, _ in list(rules(here.house)):
        for method in METHODS:
            for letter in ("N" if auth == "open" else "S", *LETTERS):
                walked += 1
                assert_cell(here, rule, method, letter, auth)
    assert walked > 1000


def assert_cell(here: Town, rule: str, method: str, letter: str, auth: str) -> None:
    """What one caller gets at one route. The objects are the caller's own, or of the caller's organisation."""
    role = LETTERS.get(letter, "")
    key_id = (
        here.key(here.home, "viewer", role if role != "viewer" else "developer")[0].id
        if "<string:key" in rule
        else ""
    )
    victim = here.home.people["victim"].id
    key = here.key(here.home, role, role)[1] if role else ""
    known = {"HEAD": "GET"}.get(method, method)
    allowed = cell_of(rule).get(known)
    body = BODIES.get(rule, {}) if method in ("POST", "PATCH", "PUT") else None
    reply = here.ask(method, address_of(rule, key_id, victim), key, body)
    status, what = reply.status_code, (rule, method, letter, auth, reply.status_code)
    if allowed is None:
        assert status == (401 if letter == "S" else 405), what
    elif letter in allowed:
        # A name that is taken, a token that is none, a request of which nobody knows: the door was open.
        is_let_in = rule.startswith("/api/v1/auth/") or "feedback" in rule or rule in ROOTS
        assert status in (200, 201, 409) or (is_let_in and status != 403), what
    else:
        assert status == (403 if role else 401), what
    reply.close()


# The owner.


def targets(here: Town) -> dict[str, str]:
    return {
        "own": here.key(here.home, "viewer", "developer")[0].id,
        "a colleague's": here.key(here.home, "viewer", "admin")[0].id,
        "nobody's": here.key(here.home, "viewer")[0].id,
        "another tenant's": here.key(here.away, "viewer", "developer")[0].id,
        "unknown": "0" * 12,
        "no id at all": "x'%20OR%201=1",
    }


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PATCH", "", {"name": "renamed"}),
        ("DELETE", "", None),
        ("POST", "/rotate", {"grace_seconds": 0}),
    ],
)
def test_a_developer_reaches_own_keys_an_admin_those_of_the_organisation_and_nobody_anothers(
    required, method, path, body
):
    here = required
    reached = {
        "developer": {"own"},
        "admin": {"own", "a colleague's", "nobody's"},
    }
    not_found = set()
    for role, theirs in reached.items():
        for owner, key_id in targets(here).items():
            reply = here.ask(method, f"{KEYS}/{key_id}{path}", here.home.text(role), body, **ONE_ID)
            assert reply.status_code == (200 if owner in theirs else 404), (role, owner, reply.text)
            if reply.status_code == 404:
                not_found.add(reply.data)
    assert len(not_found) == 1, "no hint of what is there"


@pytest.mark.parametrize(("method", "body"), [("PATCH", {"role": "viewer"}), ("DELETE", None)])
def test_an_admin_reaches_the_users_of_the_organisation_only(required, method, body):
    here = required
    replies = {
        where: here.ask(
            method, f"{USERS}/{tenant.people['developer'].id}", here.home.text("admin"), body, **ONE_ID
        )
        for where, tenant in (("home", here.home), ("away", here.away))
    }
    unknown = here.ask(method, f"{USERS}/{'0' * 16}", here.home.text("admin"), body, **ONE_ID)
    assert replies["home"].status_code == 200
    assert (replies["away"].status_code, replies["away"].data) == (404, unknown.data)
    assert here.house.services.accounts.user(here.away.people["developer"].id).active


def test_a_refused_route_is_an_audit_line_with_who_and_what(required):
    here = required
    assert here.ask("GET", USERS, here.home.text("developer")).status_code == 403
    (line,) = [json.loads(each) for each in here.house.lines("security_audit.log") if "AUTHZ_DENIED" in each]
    assert (line["severity"], line["tenant"]) == ("MEDIUM", here.home.organisation.id)
    assert line["details"] == {
        "by": "key",
        "by_id": here.home.keys["developer"][0].id,
        "role": "developer",
        "method": "GET",
    }
    assert line["route"] == USERS


def test_figures_of_the_whole_process_need_what_only_the_operator_gives(required):
    here = required
    scraper, text = here.key(here.home, "viewer", scopes=["metrics"])
    admin = here.home.text("admin")
    assert here.ask("GET", "/metrics", text).status_code == 200
    assert here.ask("GET", "/api/v1/stats", text).status_code == 403
    made = here.ask("POST", KEYS, admin, {"name": "x", "role": "admin", "scopes": ["metrics"]})
    rotated = here.ask("POST", f"{KEYS}/{scraper.id}/rotate", admin)
    changed = here.ask("PATCH", f"{KEYS}/{scraper.id}", admin, {"name": "mine"})
    assert (made.status_code, rotated.status_code, changed.status_code) == (403, 403, 403)
    assert here.ask("DELETE", f"{KEYS}/{scraper.id}", admin).status_code == 200


def test_a_key_of_a_user_has_no_figures_of_the_whole_process(required):
    with pytest.raises(InvalidInput, match="can have no key of more"):
        required.key(required.home, "admin", "admin", scopes=["metrics"])


# Strangers.


def test_strangers_learn_nothing_but_that_the_process_lives(required):
    here = required
    assert here.ask("GET", "/api/v1/health/live").get_json() == {"status": "alive"}
    bodies = set()
    for path in (
        "/",
        "/nowhere",
        "/api/v1/keys",
        "/metrics",
        "/swagger/",
        "/api/v1/health",
        "/api/v1/keys/x/y",
    ):
        for method in ("GET", "POST", "PUT", "DELETE", "TRACE"):
            reply = here.ask(method, path, **ONE_ID)
            assert reply.status_code == 401, (method, path)
            assert reply.headers.getlist("WWW-Authenticate"), (method, path)
            bodies.add(reply.data)
    assert len(bodies) == 1
    assert json.loads(bodies.pop())["code"] == "unauthorized"


def test_the_log_of_a_stranger_has_no_key_and_that_of_a_caller_names_both(required):
    here = required
    here.ask("GET", "/api/v1/stats")
    here.ask("GET", "/api/v1/stats", here.home.text("viewer"))
    lines = [json.loads(line) for line in here.house.lines("api_requests.log")]
    named = [(line["event"], line["tenant"], line["key_id"]) for line in lines]
    key = here.home.keys["viewer"][0]
    stranger, caller = ("anonymous", None), (key.organisation, key.id)
    assert named == [
        (event, *who) for who in (stranger, caller) for event in ("REQUEST_START", "REQUEST_END")
    ]


def test_a_preflight_is_answered_without_a_key(make_house):
    here = town(make_house, cors_origins=("https://app.example.org",))
    reply = here.ask("OPTIONS", TEXT, Origin="https://app.example.org", Access_Control_Request_Method="POST")
    assert reply.status_code == 200
    assert reply.headers["Access-Control-Allow-Origin"] == "https://app.example.org"
    assert "Access-Control-Allow-Credentials" not in reply.headers


TRICKS = [
    "//api/v1/keys",
    "/api//v1/keys",
    "/api/v1//keys",
    "/./api/v1/keys",
    "/api/v1/./keys",
    "/api/v1/x/../keys",
    "/api/v1/health/live/../../keys",
    "/api/v1/health/live/..%2f..%2fkeys",
    "/api/v1/%6beys",
    "/%61pi/v1/keys",
    "/api/v1/keys/",
    "/api/v1/keys;/health/live",
    "/api/v1/keys%00",
    "/api/v1/keys%2e",
    "/api/v1/%2e/keys",
    "/API/V1/KEYS",
    "/api/v1/keys?/api/v1/health/live",
    "/api/v1/keys#/api/v1/health/live",
    "/api/v1/health/live%3f/../keys",
    "/api/v1/users",
    "/api/v1/keys/x/rotate",
]


@pytest.mark.parametrize("trick", TRICKS)
def test_no_spelling_of_an_address_gets_around_the_guard(required, trick):
    for method in ("GET", "POST", "DELETE", "HEAD"):
        reply = required.ask(method, trick, **ONE_ID)
        assert reply.status_code in (400, 401), (method, reply.status_code)


@pytest.mark.parametrize(
    "header",
    ["X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Prefix", "X-Forwarded-Uri", "X-HTTP-Method-Override"],
)
def test_no_header_leads_to_another_route(required, header):
    """The open door stays the open door, and the closed ones stay closed."""
    live = required.ask("GET", "/api/v1/health/live", **{header: KEYS})
    assert (live.status_code, live.get_json()) == (200, {"status": "alive"})
    for value in ("/api/v1/health/live", "GET", "OPTIONS"):
        for path in (KEYS, USERS, TEXT):
            assert required.ask("POST", path, body={}, **{header: value}).status_code == 401


@pytest.mark.parametrize(
    "host",
    [
        "localhost/api/v1/health/live?",
        "x/?",
        "x/#",
        "localhost/../",
        "evil.example",
        "localhost@evil",
        "",
        "[::1",
        "a b",
    ],
)
def test_no_host_gets_around_the_guard(required, host):
    for path in (KEYS, USERS, "/metrics"):
        reply = required.ask("GET", path, Host=host)
        assert reply.status_code in (400, 401), reply.status_code


# A browser.


def basic(password: str, name: str = "anybody") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def test_a_browser_opens_what_only_shows_something_with_the_key_as_its_password(required):
    here = required
    client, key = here.house.client, here.home.text("viewer")
    for _, rule, methods in rules(here.house):
        endpoint = next(each.endpoint for each in here.house.app.url_map.iter_rules() if each.rule == rule)
        shows = endpoint in PAGES
        for method in METHODS:
            path = address_of(rule, "x", "y")
            with client.open(path, method=method, headers=basic(key)) as reply:
                if "S" in cell_of(rule).get("GET" if method == "HEAD" else method, ""):
                    continue
                expected = shows and method in (*methods, "HEAD")
                assert (reply.status_code == 200) == expected, (method, path, reply.status_code)
                assert expected or reply.status_code == 401
            with client.open(path, method=method) as stranger:
                asks = [each.split()[0] for each in stranger.headers.getlist("WWW-Authenticate")]
                assert ("Basic" in asks) == expected, (method, path)
                assert "Bearer" in asks


def test_pages_take_no_body_and_have_no_method_but_get(required):
    assert {method for endpoint in PAGES for method in TABLE[endpoint]} == {"GET"}


def test_a_wrong_password_of_a_browser_is_refused_as_any_wrong_key(required):
    here = required
    for password in ("", "x", here.home.text("viewer")[:-1] + "!", "eyJ.eyJ.x"):
        reply = here.house.client.get("/dashboard/", headers=basic(password) | ONE_ID)
        assert (reply.status_code, reply.get_json()["code"]) == (401, "unauthorized")
    for garbage in ("Basic", "Basic !", "Basic " + "x" * 9000, "Basic \xff", "basic dXNlcg=="):
        assert here.house.client.get("/dashboard/", headers={"Authorization": garbage}).status_code == 401


def test_a_page_that_sends_both_the_browsers_password_and_a_key_is_whose_the_key_is(required):
    """Swagger's page does: the browser adds its password to each call of its own accord."""
    here = required
    headers = basic(here.away.text("admin")) | {"X-API-Key": here.home.text("developer")}
    reply = here.house.client.post(TEXT, json=PROMPT, headers=headers)
    assert reply.status_code == 200
    lines = [json.loads(line) for line in here.house.lines("api_requests.log")]
    assert lines[-1]["tenant"] == here.home.organisation.id


def test_where_keys_are_not_needed_a_proxys_password_is_nobodys_business(open_town):
    for path in ("/api/v1/stats", "/dashboard/", "/swagger/"):
        assert open_town.house.client.get(path, headers=basic("the proxy's")).status_code == 200
    assert open_town.house.client.post(TEXT, json=PROMPT, headers=basic("the proxy's")).status_code == 200


def test_in_open_mode_a_key_is_checked_and_counts(open_town):
    here = open_town
    key, text = here.home.keys["developer"]
    assert here.ask("POST", TEXT, text, PROMPT).status_code == 200
    assert here.ask("POST", TEXT, text[:-1] + ("A" if text[-1] != "A" else "B"), PROMPT).status_code == 401
    assert here.ask("GET", KEYS, text).status_code == 200
    assert here.ask("GET", KEYS).status_code == 401
    rows = here.ask("GET", "/api/v1/usage?group_by=key", text).get_json()["groups"]
    assert [(row["key"], row["requests"]) for row in rows] == [(key.id, 1)]
