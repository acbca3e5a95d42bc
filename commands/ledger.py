"""Reading the ledger and looking after it: usage, export-usage, recost, prune, vacuum."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from datetime import time as clock_time
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Engine

from analytics.export import COLUMNS, FORMATS, Export
from analytics.usage import GROUP_BY, MOST_GROUPED, usage_report
from commands.terminal import Progress, Refused, say, table, whole_number
from config import ConfigError, Settings
from prices import format_dollars
from prices_file import price_book
from store import reading, upkeep
from store.db import is_current, ledger_url, open_engine
from store.rows import MICRO
from store.tables import DAY_US

FAILED = 1
LONGEST_HOURS = 87_600


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The ledger's commands; each sets `run`, which takes the settings and the arguments."""
    _usage_command(commands.add_parser("usage", help="what was used and what it cost"))
    _export_command(commands.add_parser("export-usage", help="the ledger's rows as a file"))
    _recost_command(commands.add_parser("recost", help="compute every row anew from its tokens and rates"))
    _prune_command(commands.add_parser("prune", help="delete old rows; sums and totals stay"))
    vacuum = commands.add_parser("vacuum", help="give the space of deleted rows back to the disk")
    vacuum.set_defaults(run=run_vacuum)


def _usage_command(command: argparse.ArgumentParser) -> None:
    command.add_argument("--hours", type=_hours, default=24, help="how far back, in whole hours (24)")
    command.add_argument(
        "--group-by", type=_groups, default=(), help=f"one or two of {', '.join(GROUP_BY)}, with a comma"
    )
    command.add_argument("--json", action="store_true", help="the whole report as JSON")
    command.set_defaults(run=run_usage)


def _export_command(command: argparse.ArgumentParser) -> None:
    command.add_argument("--hours", type=_hours, default=24, help="how far back, in whole hours (24)")
    command.add_argument("--format", choices=tuple(FORMATS), default="csv")
    command.add_argument(
        "--output", type=Path, help="a file, written whole or not at all; else standard output"
    )
    command.set_defaults(run=run_export)


def _recost_command(command: argparse.ArgumentParser) -> None:
    command.add_argument("--at", type=_day, help="also: what it would have cost at the prices of YYYY-MM-DD")
    command.add_argument("--json", action="store_true", help="the findings as JSON")
    command.set_defaults(run=run_recost)


def _prune_command(command: argparse.ArgumentParser) -> None:
    command.add_argument("--days", type=_days, required=True, help="keep the rows of so many last days")
    command.add_argument("--dry-run", action="store_true", help="only say how many rows would go")
    command.set_defaults(run=run_prune)


def run_usage(settings: Settings, chosen: argparse.Namespace) -> int:
    with opened(settings) as engine:
        report = usage_report(engine, chosen.hours, chosen.group_by, _now_us())
    say(json.dumps(report, indent=1) if chosen.json else "\n".join(usage_lines(report)))
    return 0


def run_export(settings: Settings, chosen: argparse.Namespace) -> int:
    with opened(settings) as engine:
        window = reading.Window.of_hours(chosen.hours, _now_us())
        whole = reading.usage(engine, window)
        expected = reading.whole(whole).figures["requests"]
        shown = Progress("rows")
        pages = reading.pages(engine, window, COLUMNS)
        export = Export(_counted(pages, shown, expected), chosen.format, lambda rows, _: shown.end(rows))
        _write(export, chosen.output)
    return 0


def run_recost(settings: Settings, chosen: argparse.Namespace) -> int:
    at = None if chosen.at is None else datetime.combine(chosen.at, clock_time(12), UTC)
    shown = Progress("rows looked at")
    with opened(settings) as engine:
        found = upkeep.recost(engine, shown, price_book(settings.prices_file) if at else None, at)
    shown.end(found.rows)
    say(json.dumps(_findings(found, at)) if chosen.json else "\n".join(recost_lines(found, at)))
    return 0 if found.exact else FAILED


def run_prune(settings: Settings, chosen: argparse.Namespace) -> int:
    before = (_now_us() // DAY_US - chosen.days) * DAY_US
    with opened(settings, writes=True) as engine:
        if chosen.dry_run:
            say(f"{upkeep.count_before(engine, before):,} rows would be deleted.")
            return 0
        shown = Progress("rows deleted")
        gone = upkeep.prune(engine, before, shown)
        shown.end(gone)
    say(f"{gone:,} rows deleted; sums and totals stay. `python cli.py vacuum` gives their space back.")
    return 0


def run_vacuum(settings: Settings, _: argparse.Namespace) -> int:
    shown = Progress("pages given back")
    with opened(settings, writes=True) as engine:
        freed = upkeep.vacuum(engine, shown)
    say(f"{freed:,} bytes given back to the disk.")
    return 0


@contextmanager
def opened(settings: Settings, *, writes: bool = False) -> Iterator[Engine]:
    """The ledger's engine, if there is a ledger of this version."""
    try:
        url = ledger_url(settings.database_url, settings.data_dir)
    except ValueError as wrong:
        raise ConfigError(f"DATABASE_URL {wrong}.") from None
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        raise Refused(f"There is no ledger at {url.database} yet: start the platform once, or set DATA_DIR.")
    engine = open_engine(url, reads_only=not writes)
    try:
        with engine.connect() as connection:
            if not is_current(connection):
                raise Refused("The ledger is of another version: start this version of the platform once.")
        yield engine
    finally:
        engine.dispose()


def _counted(pages: Any, shown: Progress, expected: int) -> Iterator[Any]:
    done = 0
    for page in pages:
        yield page
        done += len(page)
        shown(done, expected)


def _write(export: Export, output: Path | None) -> None:
    if output is None:
        for chunk in export:
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return
    whole = output.is_file() or not output.exists()  # not a device or a pipe, which must stay what it is
    part = output.with_name(output.name + ".part") if whole else output
    try:
        with part.open("wb") as file:
            file.writelines(export)
        if whole:
            part.replace(output)
    except OSError as failure:
        raise Refused(f"{output} cannot be written ({failure.strerror}). Choose another --output.") from None


def _second(moment: str) -> str:
    return datetime.fromisoformat(moment).isoformat(timespec="seconds")


def usage_lines(report: dict[str, Any]) -> list[str]:
    """A usage report as lines for a terminal."""
    names = report["group_by"]
    rows = [
        [*(str(group[name]) or f"no {name}" for name in names), *_figures(group)]
        for group in report["groups"]
    ]
    rows.append([*("" if place else "total" for place, _ in enumerate(names)), *_figures(report["total"])])
    heads = [
        *names,
        "requests",
        "hits",
        "shared",
        "failed",
        "tokens in",
        "tokens out",
        "cost $",
        "saved $",
        "unknown $",
        "no price",
    ]
    since, until = (_second(report[end]) for end in ("since", "until"))
    lines = [f"{since} to {until}", "", *table(heads, rows, len(names))]
    if waiting := report["open"]["requests"]:
        lines += ["", f"{waiting:,} requests are open just now."]
    return lines


def _figures(group: dict[str, Any]) -> list[str]:
    """Counts, money, and how many requests went to models without a price: their cost is not in the figure."""
    names = ("requests", "hits", "coalesced", "failed", "input_tokens", "output_tokens")
    money = (group[f"{name}_nanodollars"] for name in ("cost", "saved", "unknown"))
    counts = [f"{group[name]:,}" for name in names]
    return [*counts, *map(format_dollars, money), f"{group['unpriced_requests']:,}"]


def recost_lines(found: upkeep.Recosted, at: datetime | None) -> list[str]:
    """What recost found, as lines for a terminal."""
    lines = [
        f"{found.equal:,} of {found.rows:,} rows are equal to what their tokens and rates give.",
        f"The sums by day are {'equal to their rows' if found.days_equal else 'NOT equal to their rows'}.",
        f"Computed: spent {format_dollars(found.cost_nano)} $, saved {format_dollars(found.saved_nano)} $.",
    ]
    if found.differing:
        lines += ["They differ (cost, saved, discount, tokens in, out, cached, reasoning):", *found.differing]
    if at is not None:
        lines.append(
            f"At the prices of {at.date()} it would have cost {format_dollars(found.then_nano)} $"
            + (f", and {found.then_unpriced:,} rows have no price then." if found.then_unpriced else ".")
        )
    return lines


def _findings(found: upkeep.Recosted, at: datetime | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "rows": found.rows,
        "equal": found.equal,
        "days_equal": found.days_equal,
        "differing": found.differing,
        "cost_nanodollars": found.cost_nano,
        "saved_nanodollars": found.saved_nano,
    }
    if at is not None:
        told |= {"at": at.date().isoformat(), "then_nanodollars": found.then_nano}
        told["then_unpriced_rows"] = found.then_unpriced
    return told


def _hours(text: str) -> int:
    return whole_number(text, LONGEST_HOURS)


def _days(text: str) -> int:
    return whole_number(text, LONGEST_HOURS // 24)


def _groups(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if len(names) > MOST_GROUPED or len(set(names)) < len(names) or not set(names) <= set(GROUP_BY):
        raise argparse.ArgumentTypeError(f"one or two of {', '.join(GROUP_BY)} are needed")
    return names


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("a day such as 2027-01-01 is needed") from None


def _now_us() -> int:
    return round(time.time() * MICRO)
