"""Organisations, users and keys: what they may be, who may change them, and the audit line of every change."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy.engine import Connection

import account_rules
from errors import Conflict, Forbidden, InvalidInput, LedgerUnavailable, NotThere, PlatformError
from identity import OPERATOR, OUTSIDE, SCOPES_OF, Budget, Identity, Role, Scope
from store.account_pages import keys_page, users_page
from store.account_rows import told
from store.patient import Patient
from tests.account_house import ADDRESS, PASSWORD


def as_key(house, role="developer", **fields) -> Identity:
    return house.who(house.key(role, **fields)[1])


def as_user(house, name="ada", role="developer") -> Identity:
    house.user(name, role)
    return house.who(house.auth.sign_in(name, PASSWORD, ADDRESS).access)


# What they may be.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""), ("name", " "), ("name", "x" * 101), ("name", "a\nb"), ("name", 5), ("name", "a\0b"), ("name", "\ud800"),
        ("role", "owner"), ("role", None), ("role", 1),
        ("scopes", "tasks"), ("scopes", ["all"]), ("scopes", [1]), ("scopes", ["admin"]),
        ("models", "m"), ("models", ["two words"]), ("models", [""]), ("models", [None]), ("models", ["m"] * 51),
        ("rate_limit", "often"), ("rate_limit", 5), ("rate_limit", "1 per second;" * 20),
        ("rate_limit", "5 per 99999999999999 years"), ("rate_limit", "5 per minute; 5 per 367 days"), ("rate_limit", "0 per minute"), ("rate_limit", "5 per minute; 0 per day"), ("rate_limit", "5 per 0 minutes"), ("rate_limit", "5/00second"),
        ("expires_us", "soon"), ("expires_us", -1), ("expires_us", True), ("expires_us", 1 << 62), ("expires_us", 1.5),
        ("budget", {"period": "day"}), ("budget", Budget("", "week", 1)), ("budget", Budget("", "day", None)),
        ("budget", Budget("", "day", -1)), ("budget", Budget("", "day", 0, -1)), ("budget", Budget("", "day", 10**18 + 1)), ("budget", 5),
        ("owner", "me"), ("secret_mac", b"x"), ("organisation_id", "x"),
    ],
)  # fmt: skip
def test_a_wrong_field_of_a_key_is_refused_by_name(field, value):
    given = {"name": "k", "role": "developer", field: value}
    with pytest.raises(InvalidInput) as refusal:
        account_rules.scopes_within(
            account_rules.checked(
                given, ("name", "role", "scopes", "models", "rate_limit", "expires_us", "budget")
            ).get("scopes", frozenset()),
            Role.DEVELOPER,
        )
    assert refusal.value.field == field
    assert str(refusal.value).endswith(".")


def test_the_window_of_a_rate_is_a_year_at_most_and_the_sentence_says_so():
    for rate in ("5 per year", "5 per 366 days", "5 per 12 months;1 per second"):
        assert account_rules.rate_limit(rate) == rate
    with pytest.raises(InvalidInput, match="within a year at most"):
        account_rules.rate_limit("5 per 99999999999999 years")


@pytest.mark.parametrize(("hard", "soft"), [(5, 5), (5, 6), (1, 10**18)])
def test_a_soft_limit_that_would_warn_nobody_in_time_is_refused_with_both_named(hard, soft):
    with pytest.raises(InvalidInput, match=r"0\.00000000\d \$\), else nobody is warned") as refusal:
        account_rules.budget(Budget("", "day", hard, soft))
    assert refusal.value.field == "budget.soft_usd"


def test_a_soft_limit_below_the_hard_one_or_alone_is_one_and_zero_is_none():
    assert account_rules.budget(Budget("", "day", 5, 4)).soft_nano == 4
    assert account_rules.budget(Budget("", "day", None, 10**18)).soft_nano == 10**18
    assert account_rules.budget(Budget("", "day", 0, 0)) == Budget("", "day", 0, None)


def test_what_is_stored_is_what_comes_back(registry):
    made, _ = registry.key(
        "admin",
        scopes=["tasks", "reports"],
        models=["b-1", "a-1", "b-1"],
        rate_limit="5 per minute",
        expires_us=2**52,
        budget=Budget("", "total", None, 7),
    )
    assert registry.accounts.key(made.id) == made
    assert made.scopes == {Scope.TASKS, Scope.REPORTS}
    assert made.models == ("a-1", "b-1")
    assert made.budget == Budget(f"key:{made.id}", "total", None, 7)
    assert told(made)["budget"] == {"period": "total", "limit_usd": None, "soft_usd": "0.000000007"}


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("12.50", 12_500_000_000),
        ("0.000000001", 1),
        ("0", 0),
        (3, 3_000_000_000),
        ("1e-9", 1),
        (".5", 500_000_000),
        (" 7 ", 7_000_000_000),
    ],
)
def test_dollars_are_read_to_the_nano_dollar(text, nano):
    assert account_rules.nano_dollars(text, "budget") == nano


@pytest.mark.parametrize(
    "text",
    [
        "0.0000000001", "-1", "NaN", "Infinity", "1e99", "twelve", 0.1, True, None, "1" * 400, "", ".",
        # Too large or too small for any arithmetic, finer than Decimal holds, and digits that finance does not write.
        "1e999999999", "1e-999999999", "1." + "0" * 28 + "1", "1_0", "\u0663",
    ],
)  # fmt: skip
def test_what_is_no_amount_of_dollars_is_refused(text):
    with pytest.raises(InvalidInput):
        account_rules.nano_dollars(text, "budget")


def test_names_of_users_are_unique_whatever_their_case(registry):
    registry.user("Ada")
    other = registry.accounts.create_organisation("other", OPERATOR)
    for name in ("ada", "ADA", "\uff21da"):  # the last begins with a wide A
        with pytest.raises(Conflict):
            registry.user(name)
    with pytest.raises(Conflict):
        registry.user("aDa", organisation=other.id)
    with pytest.raises(Conflict):
        registry.accounts.create_organisation("main", OPERATOR)


def test_of_many_who_take_one_name_at_once_one_gets_it(registry):
    def take(_: int) -> bool:
        try:
            registry.user("ada", password="")
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(8))) == 1


def test_passwords_are_long(registry):
    for password in ("short", "x" * 300, "x" * 20 + "\ud800"):
        with pytest.raises(InvalidInput, match="assword"):
            registry.user(password=password)


@pytest.mark.parametrize("key_id", ["none", "' OR 1=1 --", "a\0b", "\ud800", "", "%", "x" * 99])
def test_what_is_not_there_is_said_to_be_so(registry, key_id):
    for look in (registry.accounts.key, registry.accounts.user, registry.accounts.organisation):
        with pytest.raises(NotThere):
            look(key_id)
    with pytest.raises(NotThere):
        registry.accounts.revoke_key(key_id, OPERATOR)


# Who may.


def test_a_key_has_no_scope_that_its_maker_lacks(registry):
    maker = as_user(registry)
    with pytest.raises(Forbidden):
        registry.accounts.create_key("k", "admin", maker)
    fewer = as_key(registry, scopes=["tasks", "keys"])
    with pytest.raises(Forbidden):
        registry.accounts.create_key("k", "developer", fewer)
    made, _ = registry.accounts.create_key("k", "developer", fewer, scopes=["tasks"])
    assert made.scopes == {Scope.TASKS}
    assert registry.accounts.create_key("k", "developer", maker)[0].user_id == maker.user_id


def test_a_key_with_few_scopes_makes_no_user_who_has_more(registry):
    """It could sign in as them."""
    narrow, full = as_key(registry, "admin", scopes=["admin"]), as_key(registry, "admin")
    admin, viewer = registry.user("root", "admin"), registry.user("v", "viewer")
    change = registry.accounts.change_user
    for role in Role:
        with pytest.raises(Forbidden, match="scope"):
            registry.accounts.create_user("mallory", role, narrow, password=PASSWORD)
    for user, fields in (
        (admin, {"password": PASSWORD}),
        (viewer, {"role": "developer"}),
        (viewer, {"role": "admin", "password": PASSWORD}),
    ):
        with pytest.raises(Forbidden, match="scope"):
            change(user.id, narrow, **fields)
        assert change(user.id, full, **fields)
    assert change(admin.id, narrow, role="viewer", active=False).role is Role.VIEWER
    assert change(viewer.id, narrow, password="")


def test_the_key_of_a_user_has_no_more_than_the_user(registry):
    user = registry.user(role="viewer")
    with pytest.raises(InvalidInput):
        registry.key("developer", user_id=user.id)
    key, _ = registry.key("viewer", user_id=user.id)
    with pytest.raises(InvalidInput):
        registry.accounts.change_key(key.id, OPERATOR, role="admin")


def test_those_without_the_scope_keys_make_none(registry):
    for maker in (
        as_key(registry, "viewer"),
        as_key(registry, scopes=["tasks"]),
        as_user(registry, "v", "viewer"),
    ):
        with pytest.raises(Forbidden):
            registry.accounts.create_key("k", "viewer", maker)


@pytest.mark.parametrize(
    "limit",
    [
        {"models": ["m-1"]},
        {"rate_limit": "1 per day"},
        {"budget": Budget("", "day", 1)},
        {"expires_us": 2**52},
    ],
)
def test_a_limited_key_makes_no_key_without_its_limits_and_loosens_none(registry, limit):
    limited = as_key(registry, **limit)
    loose = {
        name: type(value)() if name in ("models", "rate_limit") else None for name, value in limit.items()
    }
    with pytest.raises(Forbidden):
        registry.accounts.create_key("k", "developer", limited, scopes=["tasks"])
    with pytest.raises(Forbidden):
        registry.accounts.change_key(limited.key_id, limited, **loose)


def test_developers_reach_their_own_keys_and_admins_those_of_the_organisation(registry):
    ada, bob, admin = as_user(registry), as_user(registry, "bob"), as_user(registry, "root", "admin")
    key, _ = registry.accounts.create_key("k", "developer", ada)
    accounts = registry.accounts
    for change in (accounts.revoke_key, accounts.rotate_key, accounts.reach, accounts.change_key):
        with pytest.raises(NotThere):
            change(key.id, bob)
    assert accounts.change_key(key.id, ada, name="mine", scopes=["tasks"]).name == "mine"
    with pytest.raises(Forbidden):
        accounts.change_key(key.id, ada, budget=None)
    assert accounts.change_key(key.id, admin, budget=Budget("", "day", 5)).budget.limit_nano == 5
    assert accounts.revoke_key(key.id, ada).revoked_us


def test_a_key_of_no_user_reaches_itself_and_no_other(registry):
    one, other = as_key(registry), as_key(registry)
    assert registry.accounts.reach(one.key_id, one)
    with pytest.raises(NotThere):
        registry.accounts.reach(other.key_id, one)


def test_nobody_gets_the_secret_of_a_key_that_can_do_more(registry):
    """Else a key of few scopes could become one of all its user's."""
    ada = registry.user()
    few, _ = registry.key(user_id=ada.id, scopes=["keys"]), None
    all_of_them, _ = registry.key(user_id=ada.id)
    with pytest.raises(Forbidden):
        registry.accounts.rotate_key(all_of_them.id, registry.who(few[1]))
    with pytest.raises(Forbidden):
        registry.accounts.change_user(ada.id, registry.who(few[1]), password=PASSWORD + "2")


def test_another_organisation_is_not_there(registry):
    other = registry.accounts.create_organisation("other", OPERATOR)
    key, _ = registry.key(organisation=other.id)
    user = registry.user("bob", organisation=other.id)
    admin = as_key(registry, "admin")
    accounts = registry.accounts
    tries = [
        lambda: accounts.key(key.id, admin.tenant),
        lambda: accounts.user(user.id, admin.tenant),
        lambda: accounts.reach(key.id, admin),
        lambda: accounts.revoke_key(key.id, admin),
        lambda: accounts.rotate_key(key.id, admin),
        lambda: accounts.change_key(key.id, admin, name="x"),
        lambda: accounts.change_user(user.id, admin, role="viewer"),
        lambda: accounts.create_key("k", "viewer", admin, organisation=other.id),
        lambda: accounts.create_key("k", "viewer", admin, user_id=user.id),
        lambda: accounts.create_user("eve", "viewer", admin, organisation=other.id),
    ]
    for attempt in tries:
        with pytest.raises((NotThere, Forbidden)):
            attempt()
    assert {each.organisation for each in accounts.keys(admin.tenant)} == {admin.tenant}
    assert accounts.users(admin.tenant) == []
    for attempt in (
        lambda: accounts.create_organisation("x", admin),
        lambda: accounts.change_organisation(admin.tenant, admin, budget=None),
        lambda: accounts.change_organisation(other.id, admin, active=False),
    ):
        with pytest.raises(Forbidden):
            attempt()


def test_users_change_their_own_password_and_nothing_else(registry):
    ada = as_user(registry)
    registry.accounts.change_user(ada.user_id, ada, password=PASSWORD + "-new")
    assert registry.auth.sign_in("ada", PASSWORD + "-new", ADDRESS)
    for fields in ({"role": "admin"}, {"budget": None}, {"password": PASSWORD, "role": "admin"}):
        with pytest.raises(Forbidden):
            registry.accounts.change_user(ada.user_id, ada, **fields)
    with pytest.raises(Forbidden):
        registry.accounts.create_user("eve", "viewer", ada)


def test_a_revoked_key_stays_as_it_is(registry):
    key, _ = registry.key()
    revoked = registry.accounts.revoke_key(key.id, OPERATOR)
    assert registry.accounts.revoke_key(key.id, OPERATOR) == revoked
    for change in (registry.accounts.rotate_key, registry.accounts.change_key):
        with pytest.raises(Conflict):
            change(key.id, OPERATOR)
    assert len(registry.events("KEY_REVOKED")) == 1


@pytest.mark.parametrize("seconds", [-1, 10**9, float("nan"), float("inf")])
def test_a_grace_is_at_most_a_week(registry, seconds):
    key, _ = registry.key()
    with pytest.raises(InvalidInput):
        registry.accounts.rotate_key(key.id, OPERATOR, grace_seconds=seconds)


# What is told.


def test_every_change_is_a_line_with_who_what_from_and_to(registry):
    admin = as_user(registry, "root", "admin")
    registry.lines.clear()
    user = registry.accounts.create_user("bob", "viewer", admin)
    registry.accounts.change_user(user.id, admin, role="developer", budget=Budget("", "day", 10**9))
    key, _ = registry.accounts.create_key("k", "developer", admin, user_id=user.id)
    registry.accounts.change_key(key.id, admin, models=["m-1"])
    registry.accounts.rotate_key(key.id, admin)
    registry.accounts.revoke_key(key.id, admin)
    events = [event for event, _, _ in registry.lines]
    assert events == [
        "USER_CREATED",
        "USER_CHANGED",
        "KEY_CREATED",
        "KEY_CHANGED",
        "KEY_ROTATED",
        "KEY_REVOKED",
    ]
    assert {(line["by"], line["by_id"]) for _, _, line in registry.lines} == {("user", admin.user_id)}
    changed = registry.events("USER_CHANGED")[0]
    assert changed["from"] == {"role": "viewer", "budget": None}
    assert changed["to"]["role"] == "developer"
    assert changed["to"]["budget"]["limit_usd"] == "1.000000000"
    assert registry.events("KEY_CHANGED")[0]["to"] == {"models": ["m-1"]}


def test_who_becomes_an_administrator_or_ceases_to_be_one_is_a_grave_line(registry):
    user = registry.user("ada", "viewer")
    registry.lines.clear()
    for role in ("developer", "admin", "viewer"):
        registry.accounts.change_user(user.id, OPERATOR, role=role)
    assert [severity for _, severity, _ in registry.lines] == ["MEDIUM", "HIGH", "HIGH"]


def test_what_changes_nothing_is_no_line_and_every_rotation_is_one(registry):
    key, _ = registry.key(expires_us=2**52)
    user = registry.user()
    registry.lines.clear()
    registry.accounts.change_key(key.id, OPERATOR)
    registry.accounts.change_key(key.id, OPERATOR, name=key.name, role=key.role.value)
    registry.accounts.change_user(user.id, OPERATOR, role=user.role.value, active=True)
    assert registry.lines == []
    registry.accounts.change_key(key.id, OPERATOR, expires_us=2**52 + 1)
    registry.accounts.change_user(user.id, OPERATOR, password=PASSWORD)
    for _ in range(2):
        registry.accounts.rotate_key(key.id, OPERATOR)
    events = [event for event, _, _ in registry.lines]
    assert events == ["KEY_CHANGED", "USER_CHANGED", "KEY_ROTATED", "KEY_ROTATED"]


def test_what_was_refused_or_undone_is_no_line(registry):
    viewer = as_key(registry, "viewer")
    registry.lines.clear()
    for attempt in (
        lambda: registry.accounts.create_key("k", "viewer", viewer),
        lambda: registry.user("a b"),
        lambda: registry.accounts.create_organisation("main", OPERATOR),
    ):
        with pytest.raises(PlatformError):
            attempt()
    assert registry.lines == []


def test_a_key_gives_itself_no_scope_that_it_lacks(registry):
    few = as_key(registry, scopes=["keys"])
    for scopes in (["keys", "tasks"], []):
        with pytest.raises(Forbidden):
            registry.accounts.change_key(few.key_id, few, scopes=scopes)
    assert registry.accounts.key(few.key_id).scopes == {Scope.KEYS}


def test_a_key_without_the_scope_for_keys_does_not_reach_itself(registry):
    plain = as_key(registry, scopes=["tasks"])
    with pytest.raises(NotThere):
        registry.accounts.reach(plain.key_id, plain)
    with pytest.raises(NotThere):
        registry.accounts.rotate_key(plain.key_id, plain)


def test_lists_hold_what_is_of_the_callers_organisation_and_theirs_to_see(registry):
    other = registry.accounts.create_organisation("other", OPERATOR)
    mine, theirs = registry.user("ada"), registry.user("eve", organisation=other.id)
    keys = [registry.key("admin", organisation=home)[0] for home in (registry.home.id, other.id)]
    for home, user, key in ((registry.home.id, mine, keys[0]), (other.id, theirs, keys[1])):
        admin = Identity(home, frozenset(Scope), user_id="someone")
        users, _ = users_page(registry.database, admin, "", 50)
        shown, _ = keys_page(registry.database, admin, "", 50)
        assert [row["id"] for row in users] == [user.id]
        assert [row["id"] for row in shown] == [key.id]
    nobody = Identity(registry.home.id, frozenset({Scope.KEYS}))
    assert keys_page(registry.database, nobody, "", 50) == ([], "")


def test_somebody_from_outside_makes_no_key_that_would_outlive_them(registry):
    outside = Identity(registry.home.id, SCOPES_OF[Role.DEVELOPER], user_id=f"{OUTSIDE}1")
    with pytest.raises(Forbidden):
        registry.accounts.create_key("k", "developer", outside)


def test_a_key_that_gets_another_role_has_the_scopes_of_that_role(registry):
    key, _ = registry.key(scopes=["tasks"])
    assert registry.accounts.change_key(key.id, OPERATOR, role="viewer").scopes == {Scope.REPORTS}
    assert registry.accounts.key(key.id).scopes == {Scope.REPORTS}


def test_audit_lines_weigh_administrators_more_and_say_that_a_password_changed_but_not_which(registry):
    user = registry.user("ada", "developer")
    registry.user("root", "admin")
    registry.accounts.change_user(user.id, OPERATOR, password=PASSWORD + "2")
    assert [(event, severity) for event, severity, _ in registry.lines] == [
        ("USER_CREATED", "MEDIUM"),
        ("USER_CREATED", "HIGH"),
        ("USER_CHANGED", "MEDIUM"),
    ]
    assert registry.lines[-1][2]["also"] == "password"
    assert PASSWORD not in str(registry.lines)


def test_what_was_not_committed_is_no_audit_line(registry):
    class Breaks(Patient):
        @contextmanager
        def change(self) -> Iterator[Connection]:
            with super().change() as connection:
                yield connection
                raise LedgerUnavailable()

    registry.database.__class__ = Breaks
    with pytest.raises(LedgerUnavailable):
        registry.key()
    registry.database.__class__ = Patient
    assert (registry.lines, registry.accounts.keys()) == ([], [])
