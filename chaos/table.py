"""The published results: one JSON file a run, and the table of the README made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.page import Marks, write_readme
from benchmarks.table import table

RESULTS = Path(__file__).with_name("results")
README = Path(__file__).with_name("README.md")
PLACE = Marks("<!-- results: python -m chaos all --publish -->", "<!-- end of results -->")
HEAD = ("goal", "seed", "result", "what happened", "took", "commit", "when")
# In one line, with the names of the figures in the JSON.
STORIES = {
    "storm": (
        "{requests:,} asks, {calls:,} calls, {faults:,} faults of {kinds_of_fault} kinds; {ledger_nano:,} nano-dollars in "
        "ledger, headers and journal; {success_of_retryable:.2%} success where a retry or another provider can help, "
        "{calls_per_request} calls an ask, p99 {p99_seconds} s"
    ),
    "outage": (
        "alone and in a chain of three: {alone[requests]:,} and {chain[requests]:,} asks, {alone[attempts]} and "
        "{chain[attempts]} calls; refused within {alone[refusals_p99_seconds]} s and {chain[refusals_p99_seconds]} s "
        "(p99), served again after {alone[first_success_seconds]} s and {chain[first_success_seconds]} s"
    ),
    "streams": (
        "{streams:,} streams, {left} readers left, {faults:,} faults in {calls:,} calls; {ledger_nano:,} nano-dollars in "
        "ledger and journal where all was told, {estimated_rows} rows estimated; before {before}, after {after}"
    ),
    "crosstalk": (
        "{requests:,} requests of two tenants to {processes} processes, {hung_up:,} hung up; {cache[hit]:,} hits, "
        "{cache[coalesced]:,} shared flights, {calls:,} calls; 0 mismatches, 0 answers from another tenant"
    ),
    "kill": (
        "{kills} kills, {acknowledged:,} replies of {asks:,} asks; ready after {ready_seconds[median]} s, at most "
        "{ready_seconds[max]} s"
    ),
    "budget": (
        "{shared[asks]:,} asks on {shared[keys]} keys of one file, {shared[used]:.1%} of their room used, at least "
        "{shared[least_used]:.1%}; {apart[asks]:,} on {apart[keys]} keys of two instances, {apart[used]:.1%}, at least "
        "{apart[least_used]:.1%}; overshot 0; {shared[kills]} and {apart[kills]} kills, given back within "
        "{shared[given_back_seconds]} and {apart[given_back_seconds]} s"
    ),
    "postgres": (
        "{asks:,} asks; stopped {stopped[seconds]} s (p99 {stopped[p99_seconds]} s), frozen {frozen[seconds]} s "
        "(p99 {frozen[p99_seconds]} s), killed {killed[seconds]} s (p99 {killed[p99_seconds]} s); ok again after at "
        "most {ok_again_seconds_max} s"
    ),
    "replay": (
        "on SQLite and PostgreSQL: {sqlite[keys]:,} and {postgresql[keys]:,} keys in {sqlite[asks]:,} and "
        "{postgresql[asks]:,} asks, {sqlite[calls]:,} and {postgresql[calls]:,} calls and as many charged rows; "
        "{sqlite[replayed]:,} and {postgresql[replayed]:,} replayed, {sqlite[changed_bodies_refused]} and "
        "{postgresql[changed_bodies_refused]} changed bodies refused"
    ),
    "disk": "{asks:,} asks, {rows:,} rows; served again after at most {recovery_seconds_max} s",
}


def publish(result: dict[str, Any]) -> None:
    """Keep the result, in place of an earlier one of the same goal and seed, and write the table anew."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{result['goal']}-{result['seed']}.json"
    file.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    known = [json.loads(path.read_text("utf-8")) for path in RESULTS.glob("*.json")]
    write_readme(markdown(known), PLACE, README)


def markdown(results: list[dict[str, Any]]) -> str:
    order = list(STORIES)
    known = sorted(results, key=lambda result: (order.index(result["goal"]), result["seed"]))
    return table(HEAD, [cells(result) for result in known])


def cells(result: dict[str, Any]) -> list[str]:
    verdict = "passed" if result["passed"] else f"failed: {', '.join(result['problems'])}"
    told = STORIES[result["goal"]].format(**result["figures"])
    seed, took = str(result["seed"]), f"{result['seconds']:.0f} s"
    return [result["goal"], seed, verdict, told, took, result["commit"], result["at"]]
