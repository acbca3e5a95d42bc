"""The checks of `storm` and `outage` see what they are there to see: each lie has the problem that it deserves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chaos.check import Story
from chaos.goal import Run
from chaos.load import Asked, Reply
from chaos.mapping import SEEN_AFTER, is_repairable, mapping_problems
from chaos.outage import Act
from chaos.plan import MODELS, Plan, Wanted
from chaos.steady import Steady
from chaos.storm import WITH_FIELDS, each_once, menu
from tests.test_chaos import call
from tests.upstream.faults import NAMES, OWN, PLAIN, PROVIDERS, Fault

DEADLINE = 20.0


def reply(status: int = 200, code: str = "", **facts: Any) -> Reply:
    known = {"billed": False, "cost_nano": 0, "saved_nano": 0, "overall_nano": 0, "cache_status": "miss"}
    return Reply(status, code, **{**known, "attempts": 1, **facts})


def story(
    seen: Reply, *faults: str, task: str = "text", model: str = "", seconds: float = 1.0, asks: int = 1
) -> Story:
    """One prompt; a fault is name, or provider:name."""
    wanted = Wanted("one", task, 1, model=model)
    asked = [Asked(f"a{number}", wanted, 0, 0.0, seconds, seen) for number in range(asks)]
    met = [Fault.of(fault) for fault in faults]
    calls = [
        call("one", number=number, fault=fault.name, provider=fault.provider or "gemini", billed=None)
        for number, fault in enumerate(met)
    ]
    return Story("one", asked, [], calls)


def problems(told: Story) -> list[str]:
    return [problem.kind for problem in mapping_problems([told], DEADLINE)]


OUTSIDE, FORBIDDEN = "a reply outside the table of faults", "a call that the table of faults forbids"
ALLOWED = {
    "repaired": story(reply(), "unavailable", "reset_before", "ok"),
    "the next one": story(reply(), "bad_key", "openai:ok"),
    "another model of the same provider": story(reply(502, "upstream_error"), "not_found"),
    "a named model that is gone": story(reply(400, "invalid_input"), "not_found", model="gemini-x"),
    "in vain": story(reply(502, "upstream_error"), *["internal"] * 5),
    "too late": story(reply(504, "deadline"), "unavailable", seconds=DEADLINE),
    "hung": story(reply(504, "deadline"), "hang", seconds=DEADLINE),
    "refused without a call": story(reply(503, "no_provider", attempts=0)),
    "the breaker opened meanwhile": story(reply(503, "no_provider"), "unavailable"),
    "no category": story(reply(502, "upstream_invalid_response"), "says", "says", task="classify"),
    "a category at last": story(reply(), "max_tokens", "ok", task="classify"),
    "without the option": story(reply(), "openai:no_temperature", "openai:ok"),
    "somebody else's call": story(reply(422, "content_blocked"), "unavailable", "blocked_prompt", asks=2),
    "no credit, in words": story(reply(502, "upstream_error"), "anthropic:no_credit"),
}
LIES = {
    "a classification elsewhere": (story(reply(), "says", "openai:ok", task="classify"), [FORBIDDEN]),
    "a 500": (story(reply(500, "internal_error"), "garbage"), [OUTSIDE]),
    "another code": (story(reply(502, "upstream_error"), "garbage"), [OUTSIDE]),
    "another status": (story(reply(429, "upstream_rate_limited"), "quota_per_day"), [OUTSIDE]),
    "an answer that nobody gave": (story(reply(), "ok", "hang"), [OUTSIDE, FORBIDDEN]),
    "no answer to a good call": (story(reply(502, "upstream_error"), "ok"), [OUTSIDE]),
    "too early for the deadline": (story(reply(504, "deadline"), "unavailable", seconds=9.0), [OUTSIDE]),
    "refused after its content was": (story(reply(503, "no_provider"), "blocked_prompt"), [OUTSIDE]),
    "no category": (story(reply(), "says", task="classify"), [OUTSIDE]),
    "a provider's 401": (story(reply(401, "unauthorized"), "unauthorized"), [OUTSIDE]),
    "blocked, and next": (story(reply(), "blocked_answer", "openai:ok"), [FORBIDDEN]),
    "a refused key again": (story(reply(), "unauthorized", "ok"), [FORBIDDEN]),
    "a quota again": (story(reply(), "openai:spend_limit", "openai:ok"), [FORBIDDEN]),
    "too long, again": (story(reply(), "too_long", "openai:ok"), [FORBIDDEN]),
    "a 400 of gemini's again": (story(reply(), "bad_request", "ok"), [FORBIDDEN]),
    "an answer bought twice": (story(reply(), "ok", "ok"), [FORBIDDEN]),
}


@pytest.mark.parametrize("told", ALLOWED.values(), ids=ALLOWED)
def test_what_the_table_of_faults_allows_is_no_problem(told):
    assert problems(told) == []


@pytest.mark.parametrize(("told", "kinds"), LIES.values(), ids=LIES)
def test_what_the_table_of_faults_does_not_allow_is_found(told, kinds):
    assert problems(told) == kinds


def test_the_table_knows_every_fault_and_so_does_the_menu_of_the_storm(tmp_path):
    known = {*NAMES, *OWN} - {*PLAIN}
    assert set(SEEN_AFTER) == known
    full = [Fault.of(fault) for fault in menu(Run("storm", 1, False, tmp_path))]
    assert {fault.name for fault in full} == known - {"ok"}
    met = {(entry["provider"], entry["name"]) for entry in each_once()}
    assert met == {(provider, name) for name in known for provider in OWN.get(name, PROVIDERS)}
    assert all(entry["name"] in ("says", "rate_limited") for entry in WITH_FIELDS)


@pytest.mark.parametrize(
    ("fault", "alone", "in_the_chain"),
    [
        *[(name, True, True) for name in ("unavailable", "garbage", "half_close", "rate_limited", "slow")],
        *[(name, False, True) for name in ("unauthorized", "quota_per_day", "not_found", "hang")],
        *[(name, False, False) for name in ("blocked_prompt", "empty", "bad_request", "too_long", "huge")],
    ],
)
def test_repairable_is_what_a_retry_can_mend_or_another_provider_where_no_model_was_named(
    fault, alone, in_the_chain
):
    assert is_repairable(story(reply(), "unavailable", fault, model="gemini-x")) == alone
    assert is_repairable(story(reply(), "unavailable", fault)) == in_the_chain


def test_half_of_a_storm_names_a_model_of_each_provider_in_equal_parts():
    plan = Plan(1, models=MODELS)
    named = Counter(plan.next().model for _ in range(6000))
    assert set(named) == set(MODELS)
    assert all(abs(count / 6000 - (3 if model == "" else 1) / 6) < 0.02 for model, count in named.items())


# The outage.


def ask(began: float, seen: Reply | None, seconds: float = 0.01) -> Asked:
    return Asked(f"r{began}", Wanted("one", "text", 1), 0, began, seconds, seen)


REFUSED = reply(503, "no_provider", attempts=0, retry_after=2)
PROBE = reply(502, "upstream_error")


@pytest.fixture
def act(tmp_path: Path) -> Act:
    act = Act(Run("outage", 1, False, tmp_path), "alone", ["gemini"])
    act.run.figures["alone"] = {}
    act.healed, act.over = 60.0, 75.0
    act.drips = [ask(80.0, reply(504, "deadline"), act.deadline + 0.1)]
    return act


def during() -> list[Asked]:
    """A minute as it should be: twenty calls, then refusals with a probe every three seconds."""
    asked = [
        ask(number / 50, PROBE if number < 20 or number % 150 == 149 else REFUSED) for number in range(3000)
    ]
    return [*asked, *(ask(60 + number / 50, reply()) for number in range(100))]


def verdict(act: Act, fresh: list[Asked]) -> set[str]:
    past = [each for each in fresh if each.began < act.healed]
    act._not_amplified(past)
    act._refusals(past)
    act._healing(fresh)
    act._drips()
    return {problem.kind for problem in act.run.problems}


def change(place: int, **facts: Any) -> Callable[[list[Asked]], None]:
    def changed(fresh: list[Asked]) -> None:
        fresh[place] = replace(fresh[place], **facts)

    return changed


def slow_down(fresh: list[Asked]) -> None:
    for place in range(100, 140):
        change(place, seconds=0.06)(fresh)


def heal_late(fresh: list[Asked]) -> None:
    fresh[3000:] = [ask(66 + number / 50, reply()) for number in range(100)]


def call_more(fresh: list[Asked]) -> None:
    for place in range(100, 3000):
        change(place, reply=replace(PROBE, attempts=2))(fresh)


OUTAGE_LIES: dict[str, tuple[Callable[[list[Asked]], None], str]] = {
    "each retried": (call_more, "an outage that was amplified"),
    "slow refusals": (slow_down, "refusals that were not quick"),
    "no Retry-After": (
        change(100, reply=replace(REFUSED, retry_after=0)),
        "a refusal without code or Retry-After",
    ),
    "a 429": (change(100, reply=reply(429, "upstream_rate_limited")), "a reply that is none of an outage"),
    "found after six seconds": (heal_late, "found too late"),
    "ill again": (change(-1, began=70.0, reply=PROBE), "not well five seconds after the healing"),
    "an answer out of the blue": (
        change(100, reply=reply()),
        "a fresh answer during the outage: it was none",
    ),
}


@pytest.mark.parametrize(
    ("late", "seconds", "kinds"),
    [
        (500, 0.06, set()),
        (2900, 0.06, {"refusals that were not quick"}),
        (500, 0.3, {"refusals that were not quick"}),
    ],
)
def test_a_short_outage_is_held_against_most_refusals_as_it_shares_its_machine(act, late, seconds, kinds):
    act.run = Run("outage", 1, True, act.run.folder)
    act.run.figures["alone"] = {}
    fresh = during()
    for place in range(50, 50 + late):
        change(place, seconds=seconds)(fresh)
    assert verdict(act, fresh) == kinds


def test_an_outage_as_it_should_be_is_no_problem(act):
    assert verdict(act, during()) == set()


@pytest.mark.parametrize("lie", OUTAGE_LIES)
def test_an_outage_that_is_none_or_too_many_calls_are_found(act, lie):
    fresh = during()
    tell, kind = OUTAGE_LIES[lie]
    tell(fresh)
    assert kind in verdict(act, fresh)


@pytest.mark.parametrize(
    ("times", "found"), [((10.0, 12.1, 14.3, 60.5, 60.6), set()), ((10.0, 11.0), {"two probes at once"})]
)
def test_a_second_probe_before_its_time_is_found(act, times, found):
    act.calls = [call("one", at=at, fault="ok" if at > 60 else "hang") for at in times]
    act._one_probe_at_a_time()
    assert {problem.kind for problem in act.run.problems} == found


@pytest.mark.parametrize(
    ("seen", "seconds"), [(reply(504, "deadline"), 10.6), (PROBE, 10.0), (None, 10.0)], ids=repr
)
def test_a_drip_that_goes_on_or_ends_otherwise_is_found(act, seen, seconds):
    act.drips = [ask(80.0, seen, seconds)]
    act._drips()
    assert len(act.run.problems) == 1


@pytest.mark.parametrize("seen", [None, reply(503, "overloaded"), reply(200, cache_status="miss")], ids=repr)
def test_a_hit_that_was_not_served_is_found(act, seen):
    act._hits([ask(1.0, reply(cache_status="hit")), ask(2.0, seen)])
    assert len(act.run.problems) == 1


def test_steady_callers_ask_as_planned_though_nobody_answers_and_lateness_counts():
    """Against a port where nobody listens: the plan does not wait for replies, and time runs from it."""
    with Steady(1, 200.0, timeout=1.0, name="steady") as load:
        while len(load.fresh) < 20:
            load.until(0.0)
    planned = sorted(asked.began for asked in load.fresh)
    assert planned == pytest.approx([load.began + number / 200 for number in range(len(planned))])
    assert all(asked.trouble and asked.seconds > 0 for asked in load.asked)
    assert len(load.known) == -(-len(load.fresh) // 5)
