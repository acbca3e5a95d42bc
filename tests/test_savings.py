"""What was paid and what was saved is what it costs without the cache: the figures of `make savings`, in short."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.children import ROOT
from benchmarks.replay import sums
from benchmarks.savings import (
    Cell,
    Proof,
    cells_table,
    exit_code,
    proof_table,
    prove,
    verdict,
)
from benchmarks.workload import Moment, Shape, ask_of, workload
from tests.upstream import Call, Tokens, UpstreamProcess

SHORT = Shape(requests=240, catalogue=300, fresh_share=0.1, crowd_share=0.1)
DIGEST = "import hashlib; from benchmarks.workload import *; print(hashlib.sha256(repr(workload(Shape(requests=80))).encode()).hexdigest())"


@pytest.fixture(scope="module")
def proof():
    with UpstreamProcess() as upstream:
        return prove(SHORT, 1000, upstream)


def calls_of(moments: list[Moment]) -> int:
    """A call for each ask that insists on one, and for each that nobody has asked before."""
    known, calls = set(), 0
    for moment in moments:
        calls += len(moment.asks) if moment.fresh else len(set(moment.asks) - known)
        known |= set(moment.asks)
    return calls


def test_paid_and_saved_add_up_to_the_cost_with_the_cache_off(proof):
    assert proof.on.paid_nano + proof.on.saved_nano == proof.off.paid_nano > 0
    assert proof.on.paid_nano == proof.on.overall_nano == proof.on.billed_nano
    assert proof.off.paid_nano == proof.off.overall_nano == proof.off.billed_nano == proof.on.alone_nano
    assert proof.off.saved_nano == 0
    assert proof.exact


def test_at_least_the_promised_third_is_saved(proof):
    assert proof.met
    assert 100 * proof.on.paid_nano <= 70 * proof.off.paid_nano


def test_hits_shared_flights_and_fresh_answers_are_all_in_it(proof):
    assert set(proof.on.statuses) == {"hit", "miss", "coalesced", "bypass"}
    assert proof.off.statuses == {"bypass": SHORT.requests}
    assert {
        ask.path.split("/")[-2:][0] + ask.path[-4:] for moment in workload(SHORT) for ask in moment.asks
    } == {
        "generatetext",
        "generatecode",
        "classifytext",
    }


def test_with_room_for_all_the_cache_leaves_only_the_calls_that_must_be(proof):
    assert proof.off.calls == proof.off.requests == proof.on.requests == SHORT.requests
    assert proof.on.calls == calls_of(workload(SHORT))


@pytest.mark.parametrize("side", ["on", "off"])
@pytest.mark.parametrize("field", ["paid_nano", "saved_nano", "overall_nano", "billed_nano", "alone_nano"])
def test_one_nano_dollar_that_does_not_fit_is_told(proof, side, field):
    run = getattr(proof, side)
    wrong = replace(proof, **{side: replace(run, **{field: getattr(run, field) + 1})})
    assert exit_code(proof, []) == 0
    assert exit_code(wrong, []) == 1
    assert "NOT EQUAL" in verdict(wrong)
    assert exit_code(proof, [Cell(1.0, 1000, getattr(wrong, side))]) == 1


def test_a_run_that_was_cheaper_for_everybody_is_not_equal(proof):
    cheaper = replace(
        proof.off,
        **{
            name: getattr(proof.off, name) - 1
            for name in ("paid_nano", "overall_nano", "billed_nano", "alone_nano")
        },
    )
    assert cheaper.exact
    assert not Proof(proof.on, cheaper).exact


def test_less_than_promised_is_a_failure_even_where_it_adds_up(proof):
    less = replace(proof, on=proof.off)
    assert less.exact
    assert exit_code(less, []) == 1
    assert "MISSED" in verdict(less)


def test_an_upstream_with_two_prices_for_one_ask_ends_the_run():
    call = Call(
        1, 0.0, "gemini-3.1-flash-lite", "generate", "Hello", "", {}, "ok", Tokens(prompt=10, candidates=5)
    )
    other = replace(call, number=2, billed=Tokens(prompt=10, candidates=6))
    reply = {"X-Cache-Status": "miss"} | {
        f"X-Cost-{part}": "0.000010000" for part in ("Total", "Saved", "Overall")
    }
    assert sums(["Hello"], [reply], [call, call]).billed_nano == 2 * (10 * 250 + 5 * 1500)
    with pytest.raises(ValueError, match="two prices"):
        sums(["Hello"], [reply], [call, other])


@pytest.mark.parametrize("hashing", ["0", "1"])
def test_a_seed_makes_the_same_workload_in_every_process(hashing):
    here = hashlib.sha256(repr(workload(Shape(requests=80))).encode()).hexdigest()
    ran = subprocess.run(
        [sys.executable, "-c", DIGEST],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hashing},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert ran.stdout.strip() == here
    assert workload(Shape(requests=80, seed=2)) != workload(Shape(requests=80))


@pytest.mark.parametrize("exponent", [0.6, 1.0, 1.2])
def test_popularity_falls_with_rank_as_zipf_has_it(exponent):
    shape = Shape(requests=40_000, exponent=exponent, catalogue=1000, crowd_share=0.0)
    drawn = Counter(ask for moment in workload(shape) for ask in moment.asks)
    for rank in (4, 16, 64):
        times = sum(drawn[ask_of(near, shape.seed)] for near in range(rank, 2 * rank))
        expected = sum(near**-exponent for near in range(rank, 2 * rank))
        assert times / drawn[ask_of(1, shape.seed)] == pytest.approx(expected, rel=0.15)


def test_every_request_is_there_and_no_two_asks_share_a_text():
    for requests in (1, 7, 8, 61):
        assert sum(len(moment.asks) for moment in workload(Shape(requests=requests))) == requests
    assert len({ask_of(rank, 1).text for rank in range(1, 3001)}) == 3000


def test_the_tables_show_what_was_counted(proof):
    shown = proof_table(proof)
    for text in ("requests", "coalesced", "calls", f"{proof.on.calls:,}", "not claimed"):
        assert text in shown
    line = cells_table([Cell(0.8, 1000, proof.on)]).splitlines()[-1]
    assert f"{proof.on.reduction:.1f} %" in line
    assert "| equal" in line
