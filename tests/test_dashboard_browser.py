"""The dashboard in a real browser, served by a real process from a seeded ledger."""

# Above 300 lines, because each promise here needs the one process and browser that this file starts.

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from prices import format_dollars
from store.db import ledger_url, migrate, open_engine
from tests.browser import Visit, launched
from tests.ledger_rows import add_rows, made_rows
from tests.test_serve import Platform

ROOT = Path(__file__).resolve().parent.parent
EVERY_MS = 15_000
# The page tells its state when a reply was worked in; the reply itself comes a moment before.
WATCH_STATE = """() => { window.told = new Promise((told) =>
  new MutationObserver((_, watch) => { watch.disconnect(); told(); })
    .observe(document.getElementById("state"), { childList: true })); }"""
ATTACKS = (
    "<img src=x onerror=document.title='hacked'>",
    "<script>document.title='hacked'</script>",
    "\"><svg onload=document.title='hacked'>",
    "</td><b>bold</b>",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Opens pages in fresh profiles; each must end without a complaint, unless it was taken back."""
    visits: list[Visit] = []

    def begin(platform: Platform, **options: Any) -> Visit:
        visits.append(Visit(browser, f"http://127.0.0.1:{platform.port}", **options))
        return visits[-1]

    yield begin
    for one in visits:
        one.close()


def platform_with(folder: Path, rows: Any = (), **settings: str) -> Platform:
    """A served platform whose ledger holds these rows."""
    folder.mkdir(exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    engine = open_engine(ledger_url("", str(folder / "data")))
    migrate(engine)
    add_rows(engine, rows)
    engine.dispose()
    limits = {"RATE_LIMIT": "100000 per minute", "RATE_LIMIT_READS": "100000 per minute"}
    return Platform(folder, **{**limits, **settings})


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Forty days of requests by a dozen keys. Tests may add to it, so none counts on its exact figures."""
    rows = made_rows(6000, days=40, now_us=time.time_ns() // 1000, keys=12)
    platform = platform_with(tmp_path_factory.mktemp("seeded"), rows)
    yield platform
    platform.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Platform]]:
    running: list[Platform] = []

    def begin(rows: Any = (), **settings: str) -> Platform:
        running.append(platform_with(tmp_path / "platform", rows, **settings))
        return running[-1]

    yield begin
    for platform in running:
        platform.close()


def title_of(page: Page, place: str) -> str:
    """The exact amount behind a figure, as format_dollars has it."""
    return page.locator(place).get_attribute("title").removeprefix("$").replace(",", "")


def stopped(page: Page) -> Page:
    """The page with its clock at a stand: it asks only when a test moves the clock on."""
    page.clock.pause_at(time.time() + 1)
    return page


def still(shown: Visit) -> Page:
    """The page as it is opened, with figures that stay: it asks for no others by itself."""
    shown.page.clock.install()
    return stopped(shown.open())


def next_poll(page: Page, count: int = 1) -> None:
    """Let the page's clock run until it has asked again, and has planned when to ask next."""
    for _ in range(count):
        page.evaluate(WATCH_STATE)
        page.clock.fast_forward(EVERY_MS)
        page.evaluate("window.told")


# What it shows.


def test_the_page_shows_the_figures_of_the_ledger_to_the_nano_dollar(seeded, visit):
    shown = visit(seeded)
    page = still(shown)
    expect(page.locator("#forecast-range")).to_have_text(re.compile("80 % interval"))
    data, forecast = shown.told(), shown.told("/dashboard/forecast")
    sums, spend = data["sums"], data["spend"]
    saved = int(sums["saved_hit_nano"]) + int(sums["saved_coalesced_nano"])
    amounts = {
        "#spend-month": spend["month"]["cost_nano"],
        "#spend-today": spend["today"]["cost_nano"],
        "#spend-hour": spend["hour"]["cost_nano"],
        "#spend-hour-before": spend["hour"]["before_nano"],
        "#forecast": forecast["cost_nano"],
        "#window-spend": sums["cost_nano"],
        "#window-saved": saved,
        "#savings-hit": sums["saved_hit_nano"],
        "#savings-discount": sums["discount_nano"],
        "#attention-unknown-beside": sums["unknown_nano"],
    }
    for place, nano in amounts.items():
        assert title_of(page, place) == format_dollars(int(nano)), place
    expect(page.locator("#window-requests")).to_have_text(f"{sums['requests']:,}")
    expect(page.locator("#window-errors")).to_have_text(f"{sums['failed']:,}")
    expect(page.locator("#window-hits")).to_have_text(f"{100 * sums['hits'] / sums['requests']:.1f} %")


def test_the_lists_show_every_name_and_the_last_requests_and_languages(seeded, visit):
    shown = visit(seeded)
    page = still(shown)
    data = shown.told()
    for name in ("models", "providers", "keys", "endpoints"):
        shown = page.locator(f"#{name} tbody tr")
        assert shown.count() == len(data[name])
        expect(shown.first.locator("td").nth(1)).to_have_text(f"{data[name][0]['requests']:,}")
    expect(page.locator("#keys tbody tr").last.locator("th")).to_have_text(re.compile(r"\d+ others"))
    ids = page.locator("#requests td.id").all_text_contents()
    assert ids == [row["request_id"] for row in data["requests"]]
    languages = page.locator("#languages tbody th").all_text_contents()
    assert languages == [row["language"] for row in data["languages"]["rows"]]


def test_the_window_can_be_chosen_and_stays_over_a_reload(seeded, visit):
    shown = visit(seeded)
    page = still(shown)
    for hours, name in (("168", "Last 7 days"), ("720", "Last 30 days")):
        page.locator(f"input[value='{hours}']").check(force=True)
        expect(page.locator("#window-name")).to_have_text(name)
        told = shown.told()
        assert told["window"]["hours"] == int(hours)
        expect(page.locator("#window-requests")).to_have_text(f"{told['sums']['requests']:,}")
    page.reload()
    expect(page.locator("#window-name")).to_have_text("Last 30 days")
    assert page.locator("input[value='720']").is_checked()


def test_exact_amounts_show_all_nine_decimals(seeded, visit):
    page = visit(seeded).open()
    assert re.fullmatch(r"\$\d\.\d{2,4}|\$\d+\.\d\d", page.inner_text("#spend-month"))
    page.locator("#exact").check()
    assert page.inner_text("#spend-month").removeprefix("$").replace(",", "") == title_of(
        page, "#spend-month"
    )


AMOUNTS = [
    ("0", "$0.00", "$0.000000000"),
    ("1", "$0.000000001", "$0.000000001"),
    ("1750525", "$0.00175", "$0.001750525"),
    ("999999", "$0.00100", "$0.000999999"),
    ("12345678", "$0.0123", "$0.012345678"),
    ("999999999", "$1.00", "$0.999999999"),
    ("1000000000", "$1.00", "$1.000000000"),
    ("1234567890123", "$1,234.57", "$1,234.567890123"),
    ("9007199254740993000000001", "$9,007,199,254,740,993.00", "$9,007,199,254,740,993.000000001"),
    ("-1750525", "-$0.00175", "-$0.001750525"),
]


def test_no_digit_of_an_amount_is_lost(seeded, visit):
    page = visit(seeded).open(charts=False)
    written = page.evaluate(
        """async (amounts) => {
          const figures = await import("./figures.js");
          return amounts.map((nano) => [nano, figures.briefly(BigInt(nano)), figures.exactly(BigInt(nano))]);
        }""",
        [nano for nano, _, _ in AMOUNTS],
    )
    assert [tuple(one) for one in written] == AMOUNTS


def test_each_chart_has_words_and_a_table_of_the_same_figures(seeded, visit):
    shown = visit(seeded)
    page = still(shown)
    series = shown.told()["series"]
    for name in ("spend", "requests", "latency", "errors"):
        plot = page.locator(f"#chart-{name} .plot")
        assert plot.get_attribute("role") == "img"
        assert page.inner_text(f"#{plot.get_attribute('aria-labelledby')}").strip()
        page.locator(f"#chart-{name} summary").click()
        assert page.locator(f"#chart-{name} tbody tr").count() == len(series)
    paid = page.locator("#chart-spend tbody tr td:nth-child(2)").all_text_contents()
    expected = [f"${format_dollars(int(bar['cost_nano']))}" for bar in reversed(series)]
    assert paid == expected


# Its life.


def test_a_new_request_appears_without_a_reload(seeded, visit):
    shown = visit(seeded)
    shown.page.clock.install()
    page = shown.open()
    assert seeded.ask("something new", X_Request_ID="the-new-one")[0] == 200
    next_poll(page)
    told = shown.told()
    expect(page.locator("#window-requests")).to_have_text(f"{told['sums']['requests']:,}")
    newest = told["requests"][0]["request_id"]
    assert newest == "the-new-one"
    expect(page.locator("#requests td.id").first).to_have_text(newest)
    assert sum(address.endswith("/dashboard/") for address in shown.asked) == 1


def test_it_asks_every_fifteen_seconds_but_not_while_hidden_or_paused(seeded, visit):
    shown = visit(seeded)
    shown.page.clock.install()
    page = stopped(shown.open())
    polls = shown.polls()
    next_poll(page, 2)
    assert shown.polls() == polls + 2
    hide = "hidden => { Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });"
    page.evaluate(hide + " document.dispatchEvent(new Event('visibilitychange')); }", True)
    page.clock.fast_forward(10 * EVERY_MS)
    assert shown.polls() == polls + 2
    with page.expect_response(re.compile("/dashboard/data")):
        page.evaluate(hide + " document.dispatchEvent(new Event('visibilitychange')); }", False)
    page.get_by_role("button", name="Pause").click()
    page.clock.fast_forward(10 * EVERY_MS)
    assert shown.polls() == polls + 3
    expect(page.locator("#state")).to_have_text(re.compile("Paused"))
    with page.expect_response(re.compile("/dashboard/data")):
        page.get_by_role("button", name="Resume").click()


def test_a_platform_that_is_away_is_said_and_seen_again(start, visit, tmp_path):
    platform = start(made_rows(200, days=2, now_us=time.time_ns() // 1000))
    shown = visit(platform)
    shown.page.clock.install()
    page = shown.open()
    requests = page.inner_text("#window-requests")
    platform.end()
    page.clock.fast_forward(EVERY_MS)
    expect(page.locator("#away")).to_have_text(re.compile("cannot be reached.*figures below are old"))
    expect(page.locator("#state")).to_have_attribute("data-state", "away")
    assert page.inner_text("#window-requests") == requests
    again = Platform(tmp_path / "platform", PORT=str(platform.port), RATE_LIMIT_READS="100000 per minute")
    try:
        next_poll(page)
        expect(page.locator("#away")).to_be_hidden()
        expect(page.locator("#state")).to_have_attribute("data-state", "live")
    finally:
        again.close()
    shown.troubles = [line for line in shown.troubles if "ERR_CONNECTION_REFUSED" not in line]


def test_a_refusal_is_shown_in_the_platforms_own_words(start, visit):
    platform = start(RATE_LIMIT_READS="1 per minute")
    shown = visit(platform)
    shown.page.clock.install()
    page = stopped(shown.open(charts=False))
    page.clock.fast_forward(EVERY_MS)
    expect(page.locator("#away")).to_have_text(re.compile("You sent too many requests"))
    polls = shown.polls()
    page.clock.fast_forward(EVERY_MS)  # Retry-After says about a minute
    page.wait_for_function("true")
    assert shown.polls() == polls
    shown.troubles = [line for line in shown.troubles if "429" not in line]


def test_while_the_figures_are_on_their_way_the_page_says_so_and_keeps_still_if_asked(seeded, visit):
    shown = visit(seeded, reduced_motion="reduce")
    page, held = shown.page, []
    page.route(re.compile("/dashboard/data"), lambda route: held.append(route))
    page.goto(shown.base + "/dashboard/")
    expect(page.locator("#state")).to_have_text("Loading")
    expect(page.locator("main")).to_have_attribute("aria-busy", "true")
    moving = "() => getComputedStyle(document.getElementById('spend-month')).animationName"
    assert page.evaluate(moving) == "none"
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(moving) == "wait"
    page.wait_for_function("() => window.Plotly")
    held[0].continue_()
    expect(page.locator("main")).to_have_attribute("aria-busy", "false")


def test_an_empty_ledger_greets_and_then_shows_the_first_request(start, visit):
    platform = start()
    shown = visit(platform)
    shown.page.clock.install()
    page = shown.open(charts=False)
    expect(page.locator("#welcome")).to_be_visible()
    expect(page.locator("#first-call")).to_have_text(re.compile(f"{shown.base}/api/v1/generate/text"))
    expect(page.locator("#forecast")).to_have_text("Not yet")
    expect(page.locator("#forecast-range")).to_have_text(
        re.compile(r"14 complete days.*from \d{4}-\d\d-\d\d on")
    )
    assert platform.ask("the first")[0] == 200
    next_poll(page)
    expect(page.locator("#welcome")).to_be_hidden()
    expect(page.locator("#window-requests")).to_have_text("1")
    page.wait_for_selector("#chart-requests .main-svg")


# Who looks at it, and on what.

COLOURS = """() => [
  getComputedStyle(document.body).backgroundColor,
  getComputedStyle(document.querySelector("#chart-requests .xtick text")).fill,
]"""


def test_dark_and_light_follow_the_system_the_charts_too(seeded, visit):
    shown = visit(seeded, color_scheme="dark")
    shown.page.clock.install()
    page = stopped(shown.open())  # the next poll would draw anew anyway
    dark = page.evaluate(COLOURS)
    page.emulate_media(color_scheme="light")
    page.wait_for_function(
        f"dark => ({COLOURS})().every((colour, place) => colour !== dark[place])", arg=dark
    )
    light = page.evaluate(COLOURS)
    assert light[0] == "rgb(244, 246, 249)"
    assert dark[0] == "rgb(13, 18, 24)"


@pytest.mark.parametrize("hours", [24, 720])
def test_a_phone_of_360_pixels_needs_no_sideways_scrolling(seeded, visit, hours):
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    page = visit(seeded, **phone).open(f"/dashboard/?hours={hours}")
    page.locator("#exact").check()
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]


REACHED = """() => {
  const element = document.activeElement, style = getComputedStyle(element);
  const marked = element.matches("input[type=radio]") ? getComputedStyle(element.nextElementSibling) : style;
  const name = element.id || element.getAttribute("aria-labelledby") || element.getAttribute("aria-label") || element.textContent;
  return [name.trim().slice(0, 40), marked.outlineStyle !== "none" || element.className === "skip"];
}"""
REACHABLE = """() => [...document.querySelectorAll("a[href], button, input, summary, [tabindex='0']")]
  .filter((element) => element.checkVisibility() && !(element.type === "radio" && !element.checked)).length"""


def test_the_keyboard_reaches_everything_and_shows_where_it_is(seeded, visit):
    page = visit(seeded).open()
    reached = []
    for _ in range(page.evaluate(REACHABLE)):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(REACHED))
    assert len({name for name, _ in reached}) >= len(reached) - 1, reached
    assert all(visible for _, visible in reached), reached
    names = [name for name, _ in reached]
    for name in ("Skip to the figures", "exact", "pause", "models-title", "requests-title", "Metrics"):
        assert name in names
    assert "Spend and savings as a table" in names


def test_the_skip_link_and_the_arrow_keys_work(seeded, visit):
    page = visit(seeded).open()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator("input[value='24']").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#window-name")).to_have_text("Last 7 days")


# What strangers write.


def hostile_rows() -> Iterator[dict[str, Any]]:
    at_us = time.time_ns() // 1000 - 60_000_000
    for number, attack in enumerate(ATTACKS):
        yield {
            "request_id": f"{number}{attack}",
            "mark": number,
            "at_us": at_us + number,
            "route": f"/r{number}{attack}",
            "provider": attack[:32],
            "model": f"m{number}{attack}",
            "key_id": f"k{number}{attack}",
            "cache_status": attack[:16],
            "language": attack[:32],
            "lines": 3,
            "prompt": attack,
            "status": 200,
            "cost_nano": None,
            "attempts": 1,
        }


def test_markup_in_names_is_shown_as_text_only(start, visit):
    platform = start(hostile_rows())
    for attack in ATTACKS:
        platform.request("GET", "/nowhere", User_Agent=attack)
    page = visit(platform).open()
    for summary in page.locator("summary").all():
        summary.click()
    text = page.inner_text("main")
    for attack in ATTACKS:
        assert text.count(attack) >= 4, attack
    assert page.locator("main img, main script, main svg:not(.main-svg, .main-svg *), main b").count() == 0
    assert page.title() == "Spend and usage · LLM platform"
    expect(page.locator("#events tbody tr").first).to_contain_text("THREAT_")


# Getting the browser.


@pytest.mark.skipif(shutil.which("make") is None, reason="this machine has no make")
def test_make_installs_the_browser_once_and_says_what_to_do_where_it_cannot(tmp_path):
    def make(user: int) -> str:
        (tmp_path / "id").write_text(f"#!/bin/sh\necho {user}\n")
        (tmp_path / "id").chmod(0o755)
        command = [shutil.which("make"), "--no-print-directory", "browser"]
        run = subprocess.run(
            command, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=20
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    done = tmp_path / "done"
    installer = f'#!/bin/sh\necho "$@" >> {done}\n[ "$1" = update ] || : > {tmp_path}/chromium\n'
    (tmp_path / "apt-get").write_text(
        f"{installer}[ ! -e {tmp_path}/chromium ] || /bin/chmod 755 {tmp_path}/chromium\n"
    )
    (tmp_path / "apt-get").chmod(0o755)
    assert "apt-get install chromium" in make(user=1000)
    assert not done.exists()
    assert "Installing" in make(user=0)
    assert done.read_text().splitlines() == ["update -qq", "install -qq -y chromium"]
    assert os.access(tmp_path / "chromium", os.X_OK)
    assert make(user=0) == ""
    assert len(done.read_text().splitlines()) == 2
