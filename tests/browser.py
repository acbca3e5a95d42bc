"""Chromium without a window, driven by Playwright's client: the machine's own, nothing is ever downloaded."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Response, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
# For whatever a page is to do or to show; reached only where it does not.
PATIENCE_MS = 40_000
# Told by the page itself; the browser's own console lines do not name the rule.
WATCH_POLICY = """
window.refusals = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.refusals.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
"""


def chromium() -> str | None:
    """Where the machine's Chromium is."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser for the tests of one module; they are skipped where the machine has none."""
    path = chromium()
    if path is None:
        pytest.skip("there is no Chromium; `make browser` installs it or says how")
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE_MS)
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


class Visit:
    """One page in a fresh profile, and everything that went wrong on it."""

    def __init__(self, browser: Browser, base: str, **options: Any) -> None:
        self.base, self.troubles = base, []
        self.asked: list[str] = []
        self._replies: dict[str, Response] = {}
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.context.set_default_timeout(PATIENCE_MS)
        self.context.add_init_script(WATCH_POLICY)
        self.page: Page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        self.page.on("console", self._heard)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("response", self._answered)

    def _answered(self, response: Response) -> None:
        self._replies[urlsplit(response.url).path] = response

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.troubles.append(f"console: {message.text}")

    def open(self, path: str = "/dashboard/", charts: bool = True) -> Page:
        """The page once its figures are there, and its charts where there is something to draw."""
        self.page.goto(self.base + path)
        self.page.wait_for_selector("main[aria-busy=false]")
        if charts:
            for name in ("spend", "requests", "latency", "errors"):
                self.page.wait_for_selector(f"#chart-{name} .main-svg")
        return self.page

    def told(self, path: str = "/dashboard/data") -> Any:
        """The figures that the page itself has got last: asked for once more they may be those of the next hour."""
        return self._replies[path].json()

    def polls(self) -> int:
        return sum("/dashboard/data" in address for address in self.asked)

    def foreign(self) -> list[str]:
        """Requests to another host than the platform."""
        own = urlsplit(self.base).netloc
        return [
            address
            for address in self.asked
            if urlsplit(address).netloc != own and not re.match("(data|blob):", address)
        ]

    def close(self) -> None:
        """Ends the visit; it must have gone without a complaint of the browser."""
        refusals = [] if self.page.url == "about:blank" else self.page.evaluate("window.refusals")
        foreign = self.foreign()
        self.context.close()
        assert (self.troubles, refusals, foreign) == ([], [], [])
