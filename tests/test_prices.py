"""The price book: exact ids, exact days, exact nano-dollars."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest

from prices import MEMO_SIZE, PACKAGE_NAMES, OwnPrice, PriceBook, Rates, dollars, format_dollars
from prices_file import PricesFileError, read_prices_file
from tasks import Usage

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
FIXTURE = Usage(11_125, 20 + 409, cached_tokens=7_441, reasoning_tokens=409)


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook()


def package_models():
    from genai_prices.data_snapshot import get_snapshot

    by_name = {listed.id: listed.models for listed in get_snapshot().providers}
    return [(ours, model) for ours, theirs in PACKAGE_NAMES.items() for model in by_name[theirs]]


def price_days(model):
    """A day in each of a model's price windows."""
    windows = model.prices if isinstance(model.prices, list) else []
    starts = [window.constraint.start_date for window in windows if window.constraint]
    return [NOW, *(datetime(day.year, day.month, day.day, tzinfo=UTC) for day in starts)]


# -- the package's prices


def test_the_fixture_costs_exactly_what_the_vendor_bills(book):
    cost = book.cost("gemini", "gemini-3.1-flash-lite", FIXTURE, NOW)
    assert (cost.input_nano, cost.output_nano, cost.total_nano) == (1_107_025, 643_500, 1_750_525)
    assert format_dollars(cost.total_nano) == "0.001750525"
    assert cost.rates == Rates("gemini-3.1-flash-lite", 250, 25, 1500, cost.rates.source)
    assert cost.rates.source.startswith("genai-prices 0.")


def test_amounts_are_ints_whatever_the_rates(book):
    own = PriceBook(
        [OwnPrice("gemini", Rates("m", Decimal("0.5"), Decimal("0.25"), Decimal("1.5"), "PRICES_FILE"))]
    )
    for cost in (book.cost("openai", "gpt-4o-mini", FIXTURE, NOW), own.cost("gemini", "m", FIXTURE, NOW)):
        assert [type(part) for part in (cost.input_nano, cost.output_nano, cost.total_nano)] == [int] * 3


def test_every_flat_price_is_a_whole_number_of_nano_dollars():
    flat = [
        (model.id, name, price)
        for _, model in package_models()
        for moment in price_days(model)
        for name in ("input_mtok", "cache_read_mtok", "output_mtok")
        if isinstance(price := getattr(model.get_prices(moment), name), Decimal)
    ]
    assert len(flat) > 300
    assert [entry for entry in flat if entry[2] * 1000 % 1] == []


def test_every_model_costs_what_the_package_itself_computes(book):
    checked = 0
    for provider, model in package_models():
        for moment in price_days(model):
            for tokens in (1, 1_000, 128_001, 200_000, 200_001, 272_001):
                checked += agrees(
                    book, provider, model, moment, Usage(tokens, 777, cached_tokens=tokens // 3)
                )
    assert checked > 1_000


def agrees(book, provider, model, moment, usage) -> bool:
    from genai_prices.types import Usage as TheirUsage

    cost = book.cost(provider, model.id, usage, moment)
    if cost is None:
        return False
    theirs = TheirUsage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
    )
    expected = model.get_prices(moment).calc_price(theirs)
    # The package does not round; some tiered rates have fractions of a nano-dollar.
    for ours, exact in (
        (cost.input_nano, expected["input_price"]),
        (cost.output_nano, expected["output_price"]),
    ):
        assert ours == round(exact * 10**9), (model.id, moment, usage)
    return True


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("gemini", "gemini-3.8-flash-lite"),
        ("gemini", "gemini-3.1-flash-lite-preview-06-17"),
        ("gemini", "Gemini-3.1-Flash-Lite"),
        ("gemini", "gemini-3.8-flash-20261001"),
        ("anthropic", "claude-haiku-5-5-mega"),
        ("anthropic", "claude-haiku-5-5-mega-20261007"),
        ("openai", "gpt-4.1-2099-01-01"),
        ("openai", "gemini-3.1-flash-lite"),
        ("openai", ""),
        ("mistral", "gpt-4o-mini"),
    ],
)
def test_an_id_that_is_not_listed_exactly_has_no_price(book, provider, model):
    assert book.cost(provider, model, FIXTURE, NOW) is None


@pytest.mark.parametrize(
    ("provider", "dated", "plain"),
    [
        ("openai", "gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("openai", "gpt-6-luna-2026-09-01", "gpt-6-luna"),
        ("anthropic", "claude-haiku-5-5-20261007", "claude-haiku-5-5"),
        ("gemini", "models/gemini-3.1-flash-lite", "gemini-3.1-flash-lite"),
    ],
)
def test_reported_ids_resolve_to_the_listed_model(book, provider, dated, plain):
    cost = book.cost(provider, dated, FIXTURE, NOW)
    assert cost == book.cost(provider, plain, FIXTURE, NOW)
    assert cost.rates.model == plain


def test_a_dated_model_with_a_price_of_its_own_keeps_it(book):
    first = book.cost("openai", "gpt-4o-2024-05-13", Usage(1, 1), NOW)
    later = book.cost("openai", "gpt-4o-2024-08-06", Usage(1, 1), NOW)
    assert (first.total_nano, later.total_nano) == (20_000, 12_500)


def test_a_free_entry_of_the_package_is_unknown_not_zero(book):
    for usage in (FIXTURE, Usage(10, 0)):
        assert book.cost("gemini", "gemma-3", usage, NOW) is None


def test_an_embedding_model_has_a_price_as_long_as_nothing_comes_out(book):
    assert book.cost("openai", "text-embedding-3-small", Usage(100, 0), NOW).total_nano == 2_000
    assert book.cost("openai", "text-embedding-3-small", Usage(100, 1), NOW) is None


def test_the_new_year_doubles_the_price_at_midnight_utc(book):
    midnight = datetime(2027, 1, 1, tzinfo=UTC)
    old = book.cost("gemini", "gemini-3.8-flash", FIXTURE, midnight - timedelta(microseconds=1))
    new = book.cost("gemini", "gemini-3.8-flash", FIXTURE, midnight)
    assert (new.input_nano, new.output_nano) == (2 * old.input_nano, 2 * old.output_nano)
    assert old.total_nano > 0


def test_the_day_is_that_of_utc_wherever_the_clock_stands(book):
    tokyo = datetime(2027, 1, 1, 8, 59, tzinfo=timezone(timedelta(hours=9)))
    same = book.cost("gemini", "gemini-3.8-flash", FIXTURE, datetime(2026, 12, 31, 23, 59, tzinfo=UTC))
    assert book.cost("gemini", "gemini-3.8-flash", FIXTURE, tokyo) == same


def test_a_moment_without_a_time_zone_is_refused(book):
    with pytest.raises(ValueError, match="time zone"):
        book.cost("gemini", "gemini-3.1-flash-lite", FIXTURE, NOW.replace(tzinfo=None))


def test_above_200000_input_tokens_the_whole_call_climbs_the_step(book):
    below = book.cost("gemini", "gemini-2.5-pro", Usage(200_000, 10, cached_tokens=50_000), NOW)
    above = book.cost("gemini", "gemini-2.5-pro", Usage(200_001, 10, cached_tokens=50_000), NOW)
    assert (below.input_nano, below.output_nano) == (150_000 * 1250 + 50_000 * 125, 10 * 10_000)
    assert (above.input_nano, above.output_nano) == (150_001 * 2500 + 50_000 * 250, 10 * 15_000)
    assert (below.rates.input_nano, above.rates.input_nano) == (1250, 2500)


def test_without_a_cached_rate_the_input_rate_holds(book):
    cost = book.cost("openai", "gpt-4o-2024-05-13", Usage(100, 0, cached_tokens=60), NOW)
    assert cost.input_nano == 100 * 5_000


def test_more_cached_than_input_tokens_never_makes_a_cost_negative(book):
    cost = book.cost("gemini", "gemini-3.1-flash-lite", Usage(10, 0, cached_tokens=1_000), NOW)
    assert cost.input_nano == 10 * 25


def test_the_sandbox_is_free_and_says_so(book):
    cost = book.cost("sandbox", "anything", FIXTURE, NOW)
    assert (cost.total_nano, cost.rates.source) == (0, "sandbox")


def test_a_flood_of_invented_ids_leaves_no_more_than_the_memo_behind(book):
    from genai_prices.data_snapshot import get_snapshot

    before = (len(get_snapshot()._lookup_cache), len(get_snapshot()._provider_cache))
    for number in range(2_000):
        assert book.cost("gemini", f"gemini-3.8-flash-{number}", FIXTURE, NOW) is None
    assert book._sheet.cache_info().currsize <= MEMO_SIZE
    assert (len(get_snapshot()._lookup_cache), len(get_snapshot()._provider_cache)) == before


def test_a_second_call_does_not_look_the_price_up_again():
    fresh = PriceBook()
    for _ in range(3):
        fresh.cost("gemini", "gemini-3.1-flash-lite", FIXTURE, NOW)
    assert fresh._sheet.cache_info().misses == 1


def test_import_is_lazy_and_warm_does_it_ahead():
    program = (
        "import sys, prices; book = prices.PriceBook(); assert 'genai_prices' not in sys.modules; "
        "book.warm(); assert 'genai_prices.data' in sys.modules"
    )
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True, timeout=60)


def test_rates_survive_the_ledger_and_give_the_same_bill():
    for rates in (
        Rates("m", 250, 25, 1500, "genai-prices 0.2.3"),
        Rates("m", Decimal("0.5"), 0, 3, "PRICES_FILE"),
    ):
        again = Rates.from_text(rates.as_text())
        assert again == rates
        assert again.cost(FIXTURE) == rates.cost(FIXTURE)
        assert all(isinstance(value, str) for value in rates.as_text().values())


# -- rounding


@pytest.mark.parametrize(("tokens", "nano"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3), (7, 4)])
def test_half_a_nano_dollar_is_rounded_to_even(tokens, nano):
    rates = Rates("m", Decimal("0.5"), Decimal("0.5"), Decimal("0.5"), "PRICES_FILE")
    cost = rates.cost(Usage(tokens, tokens))
    assert (cost.input_nano, cost.output_nano) == (nano, nano)


def test_each_part_is_rounded_once_not_each_rate():
    rates = Rates("m", Decimal("0.3"), Decimal("0.3"), Decimal("0.3"), "PRICES_FILE")
    cost = rates.cost(Usage(3, 3, cached_tokens=1))  # 2 * 0.3 + 1 * 0.3 = 0.9, where 0.6 and 0.3 give 1 and 0
    assert (cost.input_nano, cost.output_nano) == (1, 1)
    assert rates.cost(Usage(2, 0, cached_tokens=1)).input_nano == 1  # 0.3 and 0.3 apart would be 0 and 0


def test_huge_counts_stay_exact():
    rates = Rates("m", Decimal("1000000.000001"), 0, 0, "PRICES_FILE")
    assert rates.cost(Usage(10**12, 0)).input_nano == 10**18 + 10**6


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0.000000000"),
        (1, "0.000000001"),
        (1_750_525, "0.001750525"),
        (10**9, "1.000000000"),
        (-1, "-0.000000001"),
    ],
)
def test_dollars_have_nine_decimals(nano, text):
    assert format_dollars(nano) == text
    assert dollars(nano) == Decimal(text)


# -- own prices

NEGOTIATED = """
[[price]]
provider = "gemini"
model = "gemini-3.1-flash-lite"
input = 0.125
output = "0.75"
cached = 0.0125
from = 2026-11-01
until = 2026-12-01

[[price]]
provider = "openai"
model = "gpt-7"
input = 3
output = 12.0005
"""


def write(tmp_path, content: str) -> Path:
    file = tmp_path / "prices.toml"
    file.write_text(content, "utf-8")
    return file


def table(**changes: str) -> str:
    fields = {"provider": '"gemini"', "model": '"m"', "input": "1", "output": "2"} | changes
    return "[[price]]\n" + "".join(f"{name} = {value}\n" for name, value in fields.items() if value)


def test_a_negotiated_price_holds_for_its_id_on_its_days(tmp_path):
    book = PriceBook(read_prices_file(write(tmp_path, NEGOTIATED)))

    def cost(moment):
        return book.cost("gemini", "gemini-3.1-flash-lite", FIXTURE, moment)

    first, last = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
    assert cost(first).input_nano == round(3_684 * 125 + 7_441 * Decimal("12.5"))
    assert cost(last - timedelta(microseconds=1)).rates.source == "PRICES_FILE"
    for outside in (first - timedelta(microseconds=1), last):
        assert cost(outside).total_nano == 1_750_525


def test_an_own_price_makes_a_model_known_that_the_package_lacks(tmp_path):
    book = PriceBook(read_prices_file(write(tmp_path, NEGOTIATED)))
    cost = book.cost("openai", "gpt-7", Usage(10, 3, cached_tokens=4), NOW)
    assert (cost.input_nano, cost.output_nano) == (30_000, round(Decimal("36001.5")))
    assert book.cost("openai", "gpt-7-mini", Usage(10, 3), NOW) is None
    assert book.cost("gemini", "gpt-7", Usage(10, 3), NOW) is None


def test_an_own_price_holds_for_the_dated_ids_of_its_model_only(tmp_path):
    content = table(provider='"openai"', model='"gpt-4o"')
    book = PriceBook(read_prices_file(write(tmp_path, content)))
    assert book.cost("openai", "gpt-4o-2024-08-06", Usage(1, 1), NOW).total_nano == 3_000
    assert book.cost("openai", "gpt-4o-2024-05-13", Usage(1, 1), NOW).total_nano == 20_000


def test_an_own_price_may_be_zero(tmp_path):
    book = PriceBook(read_prices_file(write(tmp_path, table(input="0", output="0"))))
    assert book.cost("gemini", "m", FIXTURE, NOW).total_nano == 0


def test_windows_that_only_touch_are_allowed(tmp_path):
    content = table(until="2026-12-01") + table(**{"from": "2026-12-01"})
    assert [own.starts for own in read_prices_file(write(tmp_path, content))] == [date.min, date(2026, 12, 1)]


def test_an_empty_file_has_no_prices(tmp_path):
    assert read_prices_file(write(tmp_path, "# none yet\n")) == ()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"input": "-0.1"}, "input"),
        ({"input": "nan"}, "input"),
        ({"output": "inf"}, "output"),
        ({"output": '"cheap"'}, "output"),
        ({"output": ""}, "output"),
        ({"cached": "true"}, "cached"),
        ({"cached": "0.0000000001"}, "cached"),
        ({"cached": "[1]"}, "cached"),
        ({"input": "1000001"}, "input"),
        ({"input": "1e-999999"}, "input"),
        ({"provider": '"gemni"'}, "provider"),
        ({"provider": "[]"}, "provider"),
        ({"model": '""'}, "model"),
        ({"model": '" m"'}, "model"),
        ({"model": "3"}, "model"),
        ({"from": '"2026-01-01"'}, "from"),
        ({"from": "2026-01-01T00:00:00Z"}, "from"),
        ({"from": "2026-02-01", "until": "2026-02-01"}, "until"),
        ({"outputs": "3"}, "outputs"),
    ],
)
def test_a_wrong_field_is_named_with_its_table_in_one_sentence(tmp_path, changes, field):
    with pytest.raises(PricesFileError) as refused:
        read_prices_file(write(tmp_path, table(model='"other"') + table(**changes)))
    message = str(refused.value)
    assert "table 2" in message
    assert repr(field) in message
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize(
    "content",
    [
        table() + table(),
        table(until="2026-12-02") + table(**{"from": "2026-12-01"}),
        table(**{"from": "2026-12-01"}) + table(until="2026-12-02"),
        table(until="2027-01-01") + table(**{"from": "2026-01-01", "until": "2026-02-01"}),
    ],
)
def test_overlapping_windows_of_one_model_are_refused(tmp_path, content):
    with pytest.raises(PricesFileError, match=r"table 2 .*overlaps with table 1"):
        read_prices_file(write(tmp_path, content))


@pytest.mark.parametrize(
    "content", ["[[price]", "price = 3", "prices = 3", "x = 1e99999999999999999999", "\x00"]
)
def test_a_file_that_is_no_list_of_prices_is_refused_in_one_sentence(tmp_path, content):
    with pytest.raises(PricesFileError, match=r"\AThe prices file .*\.\Z"):
        read_prices_file(write(tmp_path, content))


def test_a_missing_file_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(PricesFileError, match="cannot be read"):
        read_prices_file(tmp_path / "nowhere.toml")
