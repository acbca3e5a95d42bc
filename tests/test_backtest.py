"""The back-test: what the forecast promises is measured on days that it could not know."""

from __future__ import annotations

import time
from datetime import date, timedelta

import pytest

from analytics.backtest import LEARN_DAYS, Quality, own_quality, quality, seeded_quality
from analytics.price_calendar import ModelDay
from analytics.seeded_series import KINDS, seeded_series
from errors import HistoryTooShort
from prices import PriceBook

TODAY = date(2027, 1, 20)
BOOK = PriceBook()


def history(costs: list[int], model: str = "made-up-model") -> list[ModelDay]:
    first = TODAY - timedelta(len(costs))
    return [
        ModelDay(first + timedelta(after), "gemini", model, cost // 1000, 0, 0, 0, cost)
        for after, cost in enumerate(costs)
    ]


@pytest.fixture(scope="module")
def seeded() -> Quality:
    return seeded_quality()


def test_the_80_percent_interval_covers_70_to_90_percent_on_the_seeded_series(seeded):
    assert (seeded.series, seeded.forecasts, seeded.days) == (28, 140, 3472)
    assert 0.70 <= seeded.coverage80 <= 0.90
    assert 0.88 <= seeded.coverage95 <= 0.99
    assert 0.70 <= seeded.sum_coverage80 <= 0.95


def test_the_coverage_holds_on_seeds_by_which_nothing_was_chosen():
    fresh = seeded_quality(range(200, 228))
    assert 0.70 <= fresh.coverage80 <= 0.90
    assert fresh.coverage95 > 0.88


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_the_interval_holds_for_every_kind_of_series(kind):
    seeds = [seed for seed in range(300, 356) if seed % len(KINDS) == kind]
    assert 0.65 <= seeded_quality(seeds).coverage80 <= 0.92


def test_the_forecast_is_better_than_last_week_again(seeded):
    assert seeded.error < 0.85 * seeded.naive_error


def test_the_same_seeds_give_the_same_figures(seeded):
    assert seeded_quality(range(1, 4)) == seeded_quality(range(1, 4))
    assert seeded_series(3, 50) == seeded_series(3, 50) != seeded_series(10, 50)


def test_the_seeded_series_are_what_their_kinds_say():
    idle, flat, bursts = (
        seeded_series(700 + KINDS.index(kind), 140) for kind in ("idle weekends", "flat", "bursts")
    )
    assert not any(idle[5::7] + idle[6::7])
    assert all(cost for day, cost in enumerate(idle) if day % 7 < 5)
    assert min(flat) > 0.2 * max(flat)
    assert max(bursts) > 3 * sum(bursts) / len(bursts)


def test_no_forecast_knows_the_days_that_it_is_held_against():
    calm = seeded_series(7, LEARN_DAYS + 28)
    leapt = calm[:LEARN_DAYS] + [20 * cost for cost in calm[LEARN_DAYS:]]
    assert quality([calm], every=100).coverage80 > 0.6
    surprised = quality([leapt], every=100)
    assert (surprised.coverage80, surprised.coverage95, surprised.sum_coverage80) == (0, 0, 0)
    assert surprised.error > 0.9


def test_what_comes_again_exactly_is_forecast_exactly():
    week = [900, 1000, 1100, 1000, 800, 0, 50]
    figures = quality([[day * 1_000_000 for day in week] * 10], every=7)
    assert figures.forecasts == 6
    assert figures.error == pytest.approx(0, abs=1e-6)
    assert figures.naive_error == 0


def test_own_history_is_measured_at_todays_prices():
    # Flat usage of a model that doubled on 2027-01-01: at recorded costs it would look like a leap.
    doubled = [
        2_000_000 if TODAY - timedelta(60 - day) >= date(2027, 1, 1) else 1_000_000 for day in range(60)
    ]
    rows = [
        ModelDay(row.day, "gemini", "gemini-3.8-flash", 1000, 0, 0, 0, row.cost_nano)
        for row in history(doubled)
    ]
    figures = own_quality(rows, TODAY, BOOK)
    assert figures.error == pytest.approx(0, abs=1e-6)


def test_own_history_gives_one_forecast_a_week_of_its_last_year():
    figures = own_quality(history(seeded_series(2, 800)), TODAY, BOOK)
    assert (figures.series, figures.forecasts) == (1, 48)
    assert 0.6 <= figures.coverage80 <= 0.95
    assert figures.error < figures.naive_error


def test_a_year_is_measured_within_seconds():
    rows, began = history(seeded_series(2, 365)), time.process_time()
    own_quality(rows, TODAY, BOOK)
    assert time.process_time() - began < 8  # one, on a core of its own


def test_a_history_too_short_to_measure_is_refused_with_the_day_from_which_it_will_do():
    with pytest.raises(
        HistoryTooShort, match=r"needs 35 complete days .* has 34 so far. Ask again from 2027-01-21 on"
    ):
        own_quality(history([5] * 34), TODAY, BOOK)
    assert own_quality(history([5] * 35), TODAY, BOOK).forecasts == 1


def test_where_nothing_was_spent_there_is_no_share_of_it():
    figures = own_quality(history([0] * 60), TODAY, BOOK)
    assert (figures.coverage80, figures.error, figures.naive_error) == (1, None, None)
