"""Chromium, driven by Playwright. Tests that need it skip where there is none, unless ENGRAM_INTERP_BROWSER is set."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def on_the_path() -> str | None:
    """Where Chromium is, as Debian's package leaves it."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def executable() -> str:
    """Where Chromium is; a test skips without it."""
    found = on_the_path()
    if found is None and os.environ.get("ENGRAM_INTERP_BROWSER"):
        pytest.fail(f"none of {', '.join(NAMES)} is on the path")
    if found is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    return found


@contextmanager
def opened(address: str, width: int = 1280, scheme: str = "light") -> Iterator[tuple]:
    """A page, and a list that gets whatever went wrong on it, and whatever it asked of another machine."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = executable()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=QUIET)
        try:
            page = browser.new_page(
                viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
            )
            wrong = heard(page)
            page.goto(address)
            yield page, wrong
        finally:
            browser.close()


def heard(page: "Page") -> list[str]:
    """A list that gets whatever goes wrong on a page, and whatever it asks of another machine."""
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda one: None if is_here(one.url) else wrong.append(f"asks for {one.url}"))
    return wrong


def is_here(address: str) -> bool:
    """Whether an address is on this machine."""
    return address.startswith(("file:", "data:", "blob:", "http://127.0.0.1:"))


def file_address(path: Path) -> str:
    return path.resolve().as_uri()
