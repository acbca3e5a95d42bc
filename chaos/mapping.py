"""The only allowed mapping of upstream faults: what a caller may see after each, and which calls may follow it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from chaos.check import Story
from chaos.goal import Problem
from chaos.load import Asked, Reply
from chaos.plan import Wanted
from tests.upstream import Call

Seen = tuple[int, str]
ANSWER: Seen = (200, "")
ERROR, INVALID, EMPTY = (502, "upstream_error"), (502, "upstream_invalid_response"), (502, "upstream_empty")
QUOTA, LIMITED = (503, "upstream_quota_exhausted"), (429, "upstream_rate_limited")
BLOCKED, CALLERS_OWN, LATE = (422, "content_blocked"), (400, "invalid_input"), (504, "deadline")
# Where no call was made: every breaker is open, or the gate is full.
TURNED_AWAY: Seen = (503, "no_provider")
NO_CALL: frozenset[Seen] = frozenset({TURNED_AWAY, (503, "overloaded")})

# What the caller sees where a call with this fault was the last one.
AFTER: dict[Seen, tuple[str, ...]] = {
    ANSWER: ("ok", "slow", "other_model", "no_usage", "says", "max_tokens"),
    ERROR: (
        *("internal", "unavailable", "bad_gateway", "gateway_timeout", "request_timeout", "overloaded"),
        *("reset_before", "cut_body", "half_close", "reset_body", "bad_request", "no_temperature"),
        *("bad_key", "unauthorized", "forbidden", "redirect", "not_found"),
    ),
    INVALID: ("garbage", "wrong_schema", "html", "huge", "gzip_bomb"),
    EMPTY: ("empty", "no_candidates"),
    BLOCKED: ("blocked_prompt", "blocked_answer", "recitation", "refusal"),
    QUOTA: ("quota_per_day", "no_credit", "spend_limit"),
    LIMITED: ("rate_limited",),
    CALLERS_OWN: ("too_long",),
    LATE: ("hang", "drip"),
}
SEEN_AFTER = {fault: frozenset({seen}) for seen, faults in AFTER.items() for fault in faults}
# Anthropic says these by words alone, and words decide nothing here; its limit on spending is a 429 without a delay.
ANTHROPICS_OWN = {
    "no_credit": frozenset({ERROR}),
    "recitation": frozenset({ERROR}),
    "rate_limited": frozenset({LIMITED, QUOTA}),
}
# A classification may be asked for once more; what is still outside its list has no place in a reply.
NO_CATEGORY = ("says", "max_tokens")

# The ask is over: no other call would do better.
ENDS = frozenset(
    {*AFTER[BLOCKED], *AFTER[EMPTY], *AFTER[CALLERS_OWN], *AFTER[ANSWER]}
    | {"bad_request", "no_temperature", "redirect", "huge", "gzip_bomb"}
)
# Another provider may do better, this one never; or, after a hang, not in the time that is left.
NEXT = frozenset({*AFTER[QUOTA], "bad_key", "unauthorized", "forbidden", "not_found", *AFTER[LATE]})
# Where the breaker opened while an ask waited to repeat its call.
REPEATED = frozenset(SEEN_AFTER) - ENDS - NEXT
# A 400 that may be about an option that we sent: the same call is made once more without it. Anthropic's name no reason
# that a program could read, so the next provider is asked, too.
OPTION = ("bad_request", "no_temperature", "recitation", "no_credit")


def seen_by(reply: Reply) -> Seen:
    return reply.status, reply.code


def allowed_after(call: Call, wanted: Wanted) -> frozenset[Seen]:
    """What the table allows an ask to see whose last call this was."""
    if wanted.task == "classify" and call.fault in NO_CATEGORY:
        return frozenset({INVALID})
    if call.fault == "not_found" and wanted.model:
        return frozenset({CALLERS_OWN})
    if call.provider == "anthropic" and call.fault in ANTHROPICS_OWN:
        return ANTHROPICS_OWN[call.fault]
    return SEEN_AFTER[call.fault]


def mapping_problems(told: Iterable[Story], deadline: float) -> Iterator[Problem]:
    """Replies that the table of faults does not allow, and calls that it forbids."""
    for story in told:
        for ask in story.asked:
            if ask.reply is not None and not _is_allowed(ask, ask.reply, story, deadline):
                yield Problem("a reply outside the table of faults", f"  {ask}\n{story}")
        if len(story.asked) == 1:
            yield from _calls_in_vain(story)


def _is_allowed(ask: Asked, reply: Reply, story: Story, deadline: float) -> bool:
    """By its last call; where many asked for the same, each call may have been somebody's last."""
    calls = story.calls if len(story.asked) > 1 else story.calls[-1:]
    allowed = frozenset[Seen]().union(*(allowed_after(call, ask.wanted) for call in calls))
    if not calls or (len(story.asked) > 1 and not reply.attempts):
        allowed |= NO_CALL
    if any(call.fault in REPEATED for call in calls):
        allowed |= {TURNED_AWAY}
    if ask.seconds >= deadline - 0.1:
        allowed |= {LATE}
    return seen_by(reply) in allowed


def _calls_in_vain(story: Story) -> Iterator[Problem]:
    wanted = story.asked[0].wanted
    for call, following in pairwise(story.calls):
        again = call.provider == following.provider
        same = again and call.model == following.model
        once_more = (same and call.fault in OPTION and call.provider != "gemini") or (
            again and call.fault in NO_CATEGORY and wanted.task == "classify"
        )
        passed_on = call.provider == "anthropic" and call.fault in OPTION and not again
        if (call.fault in ENDS and not once_more and not passed_on) or (
            call.fault in NEXT and same and not once_more
        ):
            yield Problem("a call that the table of faults forbids", f"  call {following.number}\n{story}")


def is_repairable(story: Story) -> bool:
    """Whether nothing befell it that the table neither repeats nor, where its model was not named, passes on."""
    named = any(ask.wanted.model for ask in story.asked)
    beyond = (ENDS - {*AFTER[ANSWER]}) | (NEXT if named else frozenset())
    return not any(call.fault in beyond for call in story.calls)
