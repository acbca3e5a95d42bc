"""How good classification is on cases of one's own: evaluate sends them down the road and adds up."""

from __future__ import annotations

import argparse
import json
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rules
from analytics.accuracy import Outcome, accuracy_report
from commands.cases import Case, read_cases
from commands.terminal import Progress, Refused, say, table, whole_number
from config import Settings
from errors import InvalidInput, PlatformError
from prices import format_dollars
from tasks import Answer, Ask, Task

if TYPE_CHECKING:
    from services import Services

FAILED = 1
AT_ONCE, MOST_AT_ONCE = 8, 64
MOST_SHOWN = 20
# The endpoint under which reports show these asks.
ROUTE = "cli.py evaluate"
# Longer than any run, and as long as the tracker remembers.
HOURS = 24 * 31


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command; it sets `run`, which takes the settings and the arguments."""
    command = commands.add_parser("evaluate", help="classify cases whose category is known, and say how good")
    command.add_argument(
        "--file", type=Path, required=True, help="one JSON object a line: text, categories, expected"
    )
    command.add_argument("--concurrency", type=_at_once, default=AT_ONCE, help=f"cases at once ({AT_ONCE})")
    command.add_argument("--model", type=_model, help="a model id; else the platform's own choice")
    command.add_argument("--json", action="store_true", help="the whole report as JSON")
    command.set_defaults(run=run_evaluate)


def run_evaluate(settings: Settings, chosen: argparse.Namespace) -> int:
    cases = read_cases(chosen.file, settings.max_prompt_chars, settings.max_output_tokens)
    with opened(settings) as house:
        outcomes = list(_outcomes(house, cases, chosen.concurrency, chosen.model))
        report = accuracy_report(outcomes) | _costs(house.tracker.get_usage_stats(HOURS))
    say(json.dumps(report, indent=1, ensure_ascii=False) if chosen.json else "\n".join(report_lines(report)))
    return FAILED if report["failed"] else 0


@contextmanager
def opened(settings: Settings) -> Iterator[Services]:
    """The platform's services without its doors, with logs of their own: a process shares its LOG_DIR with no other."""
    from services import build_services  # other commands need not wait for it
    from store.ledger import DOWN

    house = build_services(replace(settings, log_dir=str(Path(settings.log_dir) / "evaluate")))
    try:
        house.ledger.start()
        if house.ledger.state == DOWN:
            raise Refused("The ledger cannot be written, so nothing is asked. See DATA_DIR and DATABASE_URL.")
        house.warm()
        yield house
    finally:
        house.close()


def _outcomes(house: Services, cases: list[Case], at_once: int, model: str | None) -> Iterator[Outcome]:
    from services import asks_in_air

    settings, run, shown = house.settings, secrets.token_hex(6), Progress("cases")
    most = min(at_once, settings.upstream_concurrency, asks_in_air(settings.threads))
    pool = ThreadPoolExecutor(most, thread_name_prefix="evaluate")
    try:
        answered = pool.map(lambda case: _outcome(house, case, f"evaluate-{run}-{case.line}", model), cases)
        for done, outcome in enumerate(answered, 1):
            yield outcome
            shown(done, len(cases))
        shown.end(len(cases))
    finally:
        # Of what was stopped halfway nothing more is begun, and what has begun gets its bill.
        pool.shutdown(cancel_futures=True)


def _outcome(house: Services, case: Case, request_id: str, model: str | None) -> Outcome:
    outcome = Outcome(case.line, request_id, case.multi_label, case.expected)
    ask = Ask(
        Task.CLASSIFY,
        case.text,
        deadline=time.monotonic() + house.settings.llm_timeout_seconds,
        categories=case.categories,
        multi_label=case.multi_label,
        model=model,
        max_tokens=case.max_tokens,
        route=ROUTE,
        request_id=request_id,
    )
    try:
        answer = house.pipeline.answer(ask)
    except PlatformError as failure:
        return replace(outcome, code=failure.code, error=str(failure))
    bill = answer.bill
    return replace(outcome, answered=_names(ask, answer), model=f"{bill.provider}/{bill.model}")


def _names(ask: Ask, answer: Answer) -> tuple[str, ...]:
    return tuple(json.loads(answer.text)) if ask.multi_label else (answer.text,)


def _costs(stats: dict[str, Any]) -> dict[str, Any]:
    """What the run cost: this process has asked nothing else."""
    return {
        "cost_nanodollars": stats["total_cost_nanodollars"],
        "cost": format_dollars(stats["total_cost_nanodollars"]),
        "saved_nanodollars": stats["saved_nanodollars"],
        "unknown_nanodollars": stats["unknown_nanodollars"],
        "unpriced_requests": stats["unknown_cost_requests"],
    }


def report_lines(report: dict[str, Any]) -> list[str]:
    """A report as lines for a terminal."""
    models = ", ".join(f"{name} ({count:,})" for name, count in report["models"].items())
    lines = [
        f"{report['cases']:,} cases, {report['answered']:,} answered by {models or 'nobody'}.",
        f"Accuracy: {_percent(report['accuracy'])} ({report['correct']:,} of {report['answered']:,}).",
        f"Cost: {report['cost']} ${_beside(report)}.",
        "",
        *_category_table(report["categories"]),
    ]
    if report["confusion"]:
        lines += ["", *_confusion_table(report["confusion"])]
    return lines + _listed("Wrong", report["wrong"]) + _listed("Failed", report["failed"])


def _beside(report: dict[str, Any]) -> str:
    """What stands beside the cost and is no part of it."""
    said = ""
    if report["saved_nanodollars"]:
        said += f", and {format_dollars(report['saved_nanodollars'])} $ saved by answers that came twice"
    if report["unknown_nanodollars"]:
        said += f", and at most {format_dollars(report['unknown_nanodollars'])} $ for calls that were lost"
    if report["unpriced_requests"]:
        said += f"; {report['unpriced_requests']:,} requests went to models without a price"
    return said


def _category_table(categories: dict[str, Any]) -> list[str]:
    heads = ["category", "expected", "answered", "right", "precision", "recall"]
    rows = [
        [
            name,
            *(f"{figures[count]:,}" for count in ("expected", "answered", "correct")),
            _percent(figures["precision"]),
            _percent(figures["recall"]),
        ]
        for name, figures in categories.items()
    ]
    return table(heads, rows, 1)


def _confusion_table(confusion: dict[str, dict[str, int]]) -> list[str]:
    """A line for each pair that came up, so that it can be read with any number of categories."""
    rows = [
        [expected, answered, f"{count:,}", "" if expected == answered else "wrong"]
        for expected, row in confusion.items()
        for answered, count in row.items()
    ]
    return table(["expected", "answered", "cases", ""], rows, 2)


def _listed(title: str, cases: list[dict[str, Any]]) -> list[str]:
    lines = [f"  line {case['line']}: {_what(case)}" for case in cases[:MOST_SHOWN]]
    if len(cases) > MOST_SHOWN:
        lines.append(f"  and {len(cases) - MOST_SHOWN:,} more: --json lists them all")
    return ["", f"{title}:", *lines] if lines else []


def _what(case: dict[str, Any]) -> str:
    expected = json.dumps(case["expected"], ensure_ascii=False)
    if "error" in case:
        return f"{case['code']}: {case['error']}"
    return f"{expected} was expected, {json.dumps(case['answered'], ensure_ascii=False)} answered"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _at_once(text: str) -> int:
    return whole_number(text, MOST_AT_ONCE)


def _model(text: str) -> str | None:
    try:
        return rules.model_name(text)
    except InvalidInput as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from None
