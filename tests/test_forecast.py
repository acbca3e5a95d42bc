"""The forecast: weekdays, bounds, the month's sum, and the prices of the days to come."""

from __future__ import annotations

import math
from dataclasses import astuple, replace
from datetime import UTC, date, datetime, timedelta
from random import Random

import pytest

from analytics.cost_paths import cost_paths, day_bands
from analytics.forecast import Forecast, forecast
from analytics.price_calendar import ModelDay, PriceCalendar, PriceChange
from analytics.seeded_series import seeded_series
from errors import HistoryTooShort
from prices import OwnPrice, PriceBook, Rates
from tasks import Usage

TODAY = date(2026, 12, 10)  # a Thursday
NEW_YEAR = date(2027, 1, 1)
DOUBLING, STEADY, LADDER = "gemini-3.8-flash", "gemini-3.1-flash-lite", "gemini-2.5-pro"
UNLISTED = "made-up-model"
BOOK = PriceBook()


def price(model: str, usage: Usage, day: date, book: PriceBook = BOOK) -> int:
    cost = book.cost("gemini", model, usage, datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=UTC))
    assert cost
    return cost.total_nano


def used(day: date, tokens: int, model: str = DOUBLING, book: PriceBook = BOOK) -> ModelDay:
    """A day on which one model read and wrote so many tokens, paid at the price of that day."""
    cost = price(model, Usage(tokens, tokens // 10), day, book)
    return ModelDay(day, "gemini", model, tokens, tokens // 10, 0, 0, cost)


def paid(costs: list[int], today: date = TODAY) -> list[ModelDay]:
    """One row a day until yesterday, of a model whose price nobody lists: the costs are as they are recorded."""
    first = today - timedelta(len(costs))
    return [
        ModelDay(first + timedelta(after), "gemini", UNLISTED, 1000, 100, 0, 0, cost)
        for after, cost in enumerate(costs)
    ]


def noisy(days: int, seed: int = 1, today: date = TODAY) -> list[int]:
    """About a dollar on working days and a fifth of it at weekends."""
    rng, first = Random(seed), today - timedelta(days)
    weights = [1.0 if (first + timedelta(day)).weekday() < 5 else 0.2 for day in range(days)]
    return [round(weight * 1e9 * math.exp(rng.gauss(0, 0.15))) for weight in weights]


def costs_of(made: Forecast) -> dict[date, int]:
    return {day.day: day.cost_nano for day in made.days}


def test_flat_usage_of_a_model_that_doubles_costs_twice_as_much_from_that_day_on():
    rows = [used(TODAY - timedelta(back), 5_000_000) for back in range(1, 91)]
    made = forecast(rows, TODAY, BOOK)
    before, after = (
        price(DOUBLING, Usage(5_000_000, 500_000), TODAY),
        price(DOUBLING, Usage(5_000_000, 500_000), NEW_YEAR),
    )
    assert after == 2 * before
    for day in made.days:
        assert day.cost_nano == pytest.approx(before if day.day < NEW_YEAR else after, abs=1)
        assert day.price_factor == (1.0 if day.day < NEW_YEAR else 2.0)
    assert made.price_changes == (PriceChange(NEW_YEAR, "gemini", DOUBLING, 2.0),)


def test_a_mix_rises_by_the_share_of_the_model_that_changes_and_the_bounds_rise_with_it():
    own = [OwnPrice("gemini", Rates("agreed", 10, 10, 10, "contract"), ends=date(2026, 12, 20))]
    own += [OwnPrice("gemini", Rates("agreed", 40, 40, 40, "contract"), starts=date(2026, 12, 20))]
    own += [OwnPrice("gemini", Rates("fixed", 30, 30, 30, "contract"))]
    book, rng = PriceBook(own), Random(5)
    tokens = [rng.randrange(500, 1500) for _ in range(60)]
    rows = [
        used(TODAY - timedelta(back), count, model, book)
        for back, count in enumerate(tokens, 1)
        for model in ("agreed", "fixed")
    ]
    made = forecast(rows, TODAY, book)
    unchanged = forecast(rows, TODAY, PriceBook([replace(own[0], ends=date.max), own[2]]))
    assert made.price_changes == (PriceChange(date(2026, 12, 20), "gemini", "agreed", 4.0),)
    assert {day.price_factor for day in made.days} == {1.0, 1.75}  # (40 + 30) / (10 + 30)
    for day, same in zip(made.days, unchanged.days, strict=True):
        assert astuple(day)[1:6] == pytest.approx(
            [edge * day.price_factor for edge in astuple(same)[1:6]], abs=2
        )


def test_only_models_of_the_last_four_weeks_count_for_coming_prices():
    old = [used(TODAY - timedelta(back), 5_000_000) for back in range(29, 91)]
    rows = old + [used(TODAY - timedelta(back), 5_000_000, STEADY) for back in range(1, 29)]
    made = forecast(rows, TODAY, BOOK)
    assert made.price_changes == ()
    assert {day.price_factor for day in made.days} == {1.0}


def test_a_price_change_in_the_past_is_no_trend():
    today = date(2027, 1, 20)
    rows = [used(today - timedelta(back), 5_000_000) for back in range(1, 91)]
    assert rows[0].cost_nano == 2 * rows[-1].cost_nano
    made = forecast(rows, today, BOOK)
    assert set(costs_of(made).values()) <= {rows[0].cost_nano + slip for slip in (-1, 0, 1)}
    assert made.level_nano == rows[0].cost_nano
    # What was spent this month stays as it was billed.
    assert made.month.spent_nano == 19 * rows[0].cost_nano


def test_where_the_book_has_no_price_the_recorded_cost_counts():
    made = forecast(paid([7_000_000] * 30), TODAY, BOOK)
    assert set(costs_of(made).values()) == {7_000_000}
    assert made.price_changes == ()


def test_a_price_that_ends_without_a_next_one_is_taken_to_stay():
    book = PriceBook([OwnPrice("gemini", Rates("agreed", 10, 10, 10, "contract"), ends=date(2026, 12, 20))])
    rows = [used(TODAY - timedelta(back), 1000, "agreed", book) for back in range(1, 31)]
    made = forecast(rows, TODAY, book)
    assert set(costs_of(made).values()) == {11_000}
    assert made.price_changes == ()


def test_a_model_without_a_price_for_output_is_priced_as_long_as_it_gives_none():
    row = ModelDay(TODAY - timedelta(1), "gemini", "gemini-embedding-001", 1000, 0, 0, 0, 1)
    assert PriceCalendar(BOOK, TODAY).todays_cost(row) == 150_000
    assert PriceCalendar(BOOK, TODAY).todays_cost(replace(row, output_tokens=9)) == 1


def test_usage_that_had_no_price_is_priced_once_there_is_one():
    rows = [replace(used(TODAY - timedelta(back), 5_000_000), cost_nano=0) for back in range(1, 31)]
    assert forecast(rows, TODAY, BOOK).level_nano == used(TODAY, 5_000_000).cost_nano


def test_the_sum_of_many_short_calls_climbs_no_price_step():
    short = Usage(100_000, 10_000)
    one, calendar = price(LADDER, short, TODAY), PriceCalendar(BOOK, TODAY)
    row = ModelDay(TODAY - timedelta(1), "gemini", LADDER, 5_000_000, 500_000, 0, 0, 50 * one)
    assert price(LADDER, Usage(5_000_000, 500_000), TODAY) > row.cost_nano
    assert calendar.todays_cost(row) == row.cost_nano
    # Ten long calls are dearer than fifty short ones with the same tokens, and stay so.
    long = replace(row, cost_nano=10 * price(LADDER, Usage(500_000, 50_000), TODAY))
    assert calendar.todays_cost(long) == long.cost_nano > row.cost_nano


def test_a_model_that_ceases_to_be_free_is_named_without_a_factor():
    free = OwnPrice("gemini", Rates("trial", 0, 0, 0, "trial"), ends=NEW_YEAR)
    then = OwnPrice("gemini", Rates("trial", 5, 5, 5, "list"), starts=NEW_YEAR)
    book = PriceBook([free, then])
    rows = [used(TODAY - timedelta(back), 1000, "trial", book) for back in range(1, 31)]
    rows += [used(TODAY - timedelta(back), 1000, STEADY) for back in range(1, 31)]
    made = forecast(rows, TODAY, book)
    assert made.price_changes == (PriceChange(NEW_YEAR, "gemini", "trial", None),)
    costs = costs_of(made)
    assert costs[NEW_YEAR] - costs[TODAY] == pytest.approx(1100 * 5, abs=2)


@pytest.mark.parametrize("days", [14, 17, 21, 60, 200])
def test_a_weekly_pattern_without_noise_comes_again_exactly(days):
    week = [900, 1000, 1100, 1000, 800, 0, 50]
    first = TODAY - timedelta(days)
    costs = [week[(first + timedelta(day)).weekday()] * 1_000_000 for day in range(days)]
    made = forecast(paid(costs), TODAY, BOOK)
    for day in made.days:
        expected = week[day.day.weekday()] * 1_000_000
        assert astuple(day)[1:6] == pytest.approx([expected] * 5, abs=2)


def test_weekdays_are_found_under_noise_and_quiet_days_are_known_more_closely():
    made = forecast(paid(noisy(90)), TODAY, BOOK)
    working = [day for day in made.days if day.day.weekday() < 5]
    weekend = [day for day in made.days if day.day.weekday() >= 5]
    assert max(day.cost_nano for day in weekend) < 0.35e9 < 0.8e9 < min(day.cost_nano for day in working)
    assert max(day.high95 - day.low95 for day in weekend) < min(day.high95 - day.low95 for day in working)


def test_the_wider_interval_holds_the_narrower_and_all_money_is_whole():
    made = forecast(paid(noisy(90)), TODAY, BOOK)
    for part in (*made.days, made.month):
        assert 0 <= part.low95 <= part.low80 < part.cost_nano < part.high80 <= part.high95
        edges = (part.cost_nano, part.low80, part.high80, part.low95, part.high95)
        assert {type(edge) for edge in edges} == {int}
    assert type(made.month.spent_nano) is type(made.level_nano) is int


def test_the_same_day_gives_the_same_forecast_and_another_generator_another():
    rows = paid(noisy(90))
    assert forecast(rows, TODAY, BOOK) == forecast(rows[::-1], TODAY, BOOK)
    assert forecast(rows, TODAY, BOOK, rng=Random(1)) == forecast(rows, TODAY, BOOK, rng=Random(1))
    assert forecast(rows, TODAY, BOOK, rng=Random(1)) != forecast(rows, TODAY, BOOK, rng=Random(2))


@pytest.mark.parametrize(("days", "has"), [(0, 0), (1, 1), (13, 13)])
def test_a_short_history_is_refused_with_the_day_from_which_it_will_do(days, has):
    with pytest.raises(HistoryTooShort) as refused:
        forecast(paid([5] * days), TODAY, BOOK)
    works_from = TODAY + timedelta(14 - has)
    assert str(refused.value) == (
        f"This needs 14 complete days (UTC) since the first request and has {has} so far. "
        f"Ask again from {works_from} on."
    )
    assert refused.value.status == 409
    if days:
        assert forecast(paid([5] * days), works_from, BOOK).history_days == 14


def test_today_is_no_complete_day():
    rows = [*paid([5] * 13), *paid([5], TODAY + timedelta(1))]
    with pytest.raises(HistoryTooShort, match="has 13 so far"):
        forecast(rows, TODAY, BOOK)


@pytest.mark.parametrize(
    ("days", "method"),
    [(14, "weekday means"), (20, "weekday means"), (21, "damped Holt-Winters"), (90, "damped Holt-Winters")],
)
def test_the_method_and_the_history_are_named(days, method):
    made = forecast(paid(noisy(days)), TODAY, BOOK)
    assert (made.method, made.history_days, made.history_start) == (method, days, TODAY - timedelta(days))
    assert made.level_nano == pytest.approx(sum(noisy(days)[-28:]) / min(days, 28), abs=1)


def test_days_without_rows_cost_nothing_and_several_rows_of_a_day_add_up():
    weekly = [cost if day % 7 == 0 else 0 for day, cost in enumerate([6_000_000] * 70)]
    sparse = [
        half for row in paid(weekly) if row.cost_nano for half in [replace(row, cost_nano=3_000_000)] * 2
    ]
    assert len(sparse) == 20
    assert forecast(sparse, TODAY, BOOK) == forecast(paid(weekly), TODAY, BOOK)


@pytest.mark.parametrize("days", [14, 90])
def test_nothing_spent_is_nothing_forecast(days):
    made = forecast(paid([0] * days), TODAY, BOOK)
    assert {edge for day in made.days for edge in astuple(day)[1:6]} == {0}
    assert astuple(made.month)[2:] == (0,) * 6
    assert {day.price_factor for day in made.days} == {1.0}


@pytest.mark.parametrize("day", [0, 5, 45, 80, 88, 89])
def test_one_day_of_a_hundred_times_the_cost_moves_the_forecast_a_little_only(day):
    costs = noisy(90)
    calm = forecast(paid(costs), TODAY, BOOK).days
    costs[day] *= 100
    spiked = forecast(paid(costs), TODAY, BOOK).days
    for one, other in zip(calm, spiked, strict=True):
        assert other.cost_nano == pytest.approx(one.cost_nano, rel=0.15)
    widths = [sum(one.high80 - one.low80 for one in days) for days in (calm, spiked)]
    assert 0.8 < widths[1] / widths[0] < 1.25


def test_steady_growth_goes_on_for_a_while():
    costs = [round(10**9 * math.exp(0.03 * day)) for day in range(118)]
    made = forecast(paid(costs[:90]), TODAY, BOOK, days=28)
    assert 0.84 < sum(costs_of(made).values()) / sum(costs[90:]) < 1.1
    assert sum(costs[62:90]) / sum(costs[90:]) < 0.5


def test_weekends_that_came_into_use_are_learnt_within_four_weeks():
    costs = noisy(112)
    costs[-28:] = [cost if cost > 5 * 10**8 else 5 * cost for cost in costs[-28:]]
    made = forecast(paid(costs), TODAY, BOOK, days=28)
    weekend = sum(day.cost_nano for day in made.days if day.day.weekday() >= 5) / 8
    assert weekend > 0.5 * sum(costs_of(made).values()) / 28


def test_what_is_older_than_sixteen_weeks_says_nothing_about_the_coming_days():
    new, old = noisy(112), noisy(80, today=TODAY - timedelta(112))
    other = [9 * cost for cost in old]
    assert forecast(paid(old + new), TODAY, BOOK).days == forecast(paid(other + new), TODAY, BOOK).days


def test_usage_that_has_doubled_is_followed_within_two_weeks():
    costs = noisy(90)
    costs[-14:] = [2 * cost for cost in costs[-14:]]
    made = forecast(paid(costs), TODAY, BOOK, days=28)
    assert sum(costs_of(made).values()) == pytest.approx(2 * sum(costs[14:42]), rel=0.2)


def test_what_is_spent_today_is_the_least_that_today_can_cost():
    rows = paid(noisy(90))
    made = forecast([*rows, *paid([10**10], TODAY + timedelta(1))], TODAY, BOOK)
    assert astuple(made.days[0])[1:6] == (10**10,) * 5
    plain = forecast(rows, TODAY, BOOK)
    assert made.days[1:] == plain.days[1:]
    assert made.month.spent_nano == plain.month.spent_nano + 10**10
    assert made.month.cost_nano == plain.month.cost_nano - plain.days[0].cost_nano + 10**10


def test_a_row_from_a_clock_that_is_ahead_changes_nothing():
    rows = paid(noisy(90))
    assert forecast([*rows, *paid([10**12], TODAY + timedelta(2))], TODAY, BOOK) == forecast(
        rows, TODAY, BOOK
    )


@pytest.mark.parametrize(
    ("today", "last_day"),
    [
        (date(2026, 12, 1), date(2026, 12, 31)),
        (date(2026, 12, 31), date(2026, 12, 31)),
        (date(2027, 2, 10), date(2027, 2, 28)),
        (date(2028, 2, 29), date(2028, 2, 29)),
        (date(2028, 2, 1), date(2028, 2, 29)),
        (date(2026, 11, 30), date(2026, 11, 30)),
    ],
)
def test_the_month_is_what_was_spent_and_what_its_other_days_are_forecast_to_cost(today, last_day):
    costs = noisy(90, today=today)
    made = forecast(paid(costs, today), today, BOOK, days=31)
    month = made.month
    spent = sum(costs[len(costs) - today.day + 1 :])
    assert (month.first_day, month.last_day, month.spent_nano) == (today.replace(day=1), last_day, spent)
    assert month.cost_nano == spent + sum(cost for day, cost in costs_of(made).items() if day <= last_day)
    assert spent < month.low95 < month.low80 < month.cost_nano < month.high80 < month.high95


def test_the_days_follow_each_other_over_a_leap_day_and_a_shorter_horizon_still_gives_the_whole_month():
    today = date(2028, 2, 3)
    rows = paid(noisy(90, today=today), today)
    whole, few = forecast(rows, today, BOOK, days=40), forecast(rows, today, BOOK, days=3)
    assert [day.day for day in whole.days] == [today + timedelta(after) for after in range(40)]
    assert date(2028, 2, 29) in costs_of(whole)
    assert len(few.days) == 3
    assert few.month.cost_nano == pytest.approx(whole.month.cost_nano, rel=0.02)


def test_the_bounds_of_the_month_are_those_of_the_sum_not_sums_of_bounds():
    today = date(2026, 12, 1)
    made = forecast(paid(noisy(90, today=today), today), today, BOOK, days=31)
    of_the_sum = made.month.high80 - made.month.low80
    assert 0 < of_the_sum < 0.6 * sum(day.high80 - day.low80 for day in made.days)


def test_later_days_are_less_certain():
    rng = Random(8)
    walk = [10**9]
    for _ in range(89):
        walk.append(round(walk[-1] * math.exp(rng.gauss(0, 0.1))))
    made = forecast(paid(walk), TODAY, BOOK)
    widths = [day.high80 - day.low80 for day in made.days]
    assert sum(widths[-7:]) > 1.3 * sum(widths[:7])


@pytest.mark.parametrize("days", [0, -1, 91])
def test_a_horizon_out_of_bounds_is_a_mistake(days):
    with pytest.raises(ValueError, match="1 to 90 days"):
        forecast(paid([5] * 30), TODAY, BOOK, days=days)


def test_very_large_and_very_small_costs_are_forecast_alike():
    rows = [replace(row, cost_nano=row.cost_nano * 10**8) for row in paid(noisy(60))]
    large, small = forecast(rows, TODAY, BOOK), forecast(paid(noisy(60)), TODAY, BOOK)
    for one, other in zip(large.days, small.days, strict=True):
        assert one.cost_nano == pytest.approx(other.cost_nano * 10**8, rel=1e-6)
    assert forecast(paid([0, 1] * 20), TODAY, BOOK).days[0].high95 <= 3


@pytest.mark.parametrize(
    ("days", "low", "high"), [(14, 0.7, 0.9), (20, 0.7, 0.9), (21, 0.7, 0.9), (28, 0.7, 0.9)]
)
def test_a_young_history_already_gives_honest_bounds(days, low, high):
    inside = []
    for seed in range(1, 61):
        costs = seeded_series(seed, 120)[seed % 40 :]
        bands = day_bands(cost_paths(costs[:days], 14, Random(seed), 200))
        inside += [
            band.low80 <= cost <= band.high80
            for band, cost in zip(bands, costs[days : days + 14], strict=True)
        ]
    assert low <= sum(inside) / len(inside) <= high
