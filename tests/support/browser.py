"""Debian's Chromium, driven by Playwright; nothing of a browser is mocked."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

_FLAGS = (
    "--no-sandbox",  # as root, which machines without a person are
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SCREENSHOTS = Path(__file__).parents[2] / "screenshots"
"""What the pages looked like in the last run, for people to look at; not part of the repository."""


def _program() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        message = "Chromium is not installed; run scripts/install-system as root (apt install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """Start it without a window."""
    program = _program()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*_FLAGS])
        try:
            yield browser
        finally:
            browser.close()


class Window:
    """One browser window, which notes whatever its pages ask for, and fails on what goes wrong in them."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.context: BrowserContext = browser.new_context(
            **{"viewport": {"width": 1280, "height": 860}, **options}
        )
        self.context.set_default_timeout(30_000)
        self.page: Page = self.context.new_page()
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda message: self._note(message.type, message.text))

    def _note(self, kind: str, text: str) -> None:
        if kind == "error" and "status of 4" not in text:  # a refusal is an answer, not a fault
            self.wrong.append(text)

    def shot(self, name: str) -> None:
        """Keep what the page looks like."""
        SCREENSHOTS.mkdir(exist_ok=True)
        self.page.screenshot(path=str(SCREENSHOTS / f"{name}.png"), full_page=True)

    def kept(self) -> str:
        """All that pages of this origin have stored in the browser."""
        stored: str = self.page.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, location.href])"
        )
        return stored

    def close(self) -> None:
        self.context.close()
        assert self.wrong == []
