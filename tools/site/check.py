"""Does the built site work? Every page in a real browser: wide and narrow, light and dark; and every link on it.

    python -m tools.site.check site [--pictures folder]

It serves the folder on this machine, and fails if a page is wider than its screen, writes an error to the console, asks
another machine for anything, has a link or an anchor that leads nowhere, or has what axe calls serious.
"""

import functools
import http.server
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import click
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright

from tests.browser import QUIET, heard, on_the_path

WIDTHS, SCHEMES = (1280, 390), ("light", "dark")


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a link or an anchor."""
        given = dict(attrs)
        self.anchors |= {str(given[name]) for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))


def broken(site: Path) -> list[str]:
    """The links within the site that lead nowhere."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for link in page.links:
            if urlparse(link).scheme or path.name == "404.html":
                continue
            target, anchor = urldefrag(link)
            goal = path if not target else Path(unquote(urlparse(urljoin(path.as_uri(), target)).path))
            if not goal.exists():
                found.append(f"{path.relative_to(site)}: {link}")
            elif anchor and goal in pages and unquote(anchor) not in pages[goal].anchors:
                found.append(f"{path.relative_to(site)}: {link} (no such anchor)")
    return found


@contextmanager
def serving(site: Path) -> Iterator[str]:
    """Where the site is served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name that it overrides)
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def faults(browser: Browser, address: str, place: str, width: int, scheme: str, picture: Path | None) -> list[str]:
    """What is wrong with a page."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # pyright: ignore[reportArgumentType]
    wrong = heard(page)
    page.goto(f"{address}/{place}", wait_until="load")
    if page.locator("figure.figure").count():
        page.wait_for_function(
            "[...document.querySelectorAll('figure.figure')].every((one) => one.querySelector('svg'))"
        )
    if (reach := page.evaluate("document.documentElement.scrollWidth")) > width:
        wrong.append(f"{reach} pixels wide on a screen of {width}")
    for one in Axe().run(page).response["violations"]:
        if one["impact"] in ("serious", "critical"):
            wrong.append(f"axe: {one['id']} in {one['nodes'][0]['html'][:120]}")
    if picture is not None:
        page.screenshot(path=picture, full_page=True)
    page.close()
    return wrong


def of_pages(address: str, places: Sequence[str], width: int, scheme: str, pictures: Path | None) -> list[str]:
    """What is wrong with the pages at one width, in one colour scheme."""
    found = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=on_the_path(), args=QUIET)
        for place in places:
            name = f"{place.replace('/', '_').removesuffix('.html')}_{width}_{scheme}.png"
            picture = None if pictures is None else pictures / name
            wrong = faults(browser, address, place, width, scheme, picture)
            found += [f"{place}, {width} pixels, {scheme}: {one}" for one in wrong]
        browser.close()
    return found


@click.command()
@click.argument("site", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--pictures", type=click.Path(path_type=Path), help="A folder for a picture of each page.")
@click.option("--only", default="", help="Check the pages whose address holds this.")
def main(site: Path, pictures: Path | None, only: str) -> None:
    """Check every page of a built site."""
    site = site.resolve()
    found = broken(site)
    places = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html")) if only in str(path)]
    if on_the_path() is None:
        click.echo("There is no Chromium here: links are checked, and no page is opened.")
        places = []
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    if not places:
        _tell(found, 0)
    with serving(site) as address, ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        ways = [(width, scheme) for width in WIDTHS for scheme in SCHEMES]
        checked = [pool.submit(of_pages, address, places, width, scheme, pictures) for width, scheme in ways]
        for one in checked:
            found += one.result()
    _tell(found, len(places))


def _tell(found: Sequence[str], n_pages: int) -> NoReturn:
    """Print what was found, and end; with an error if it is anything."""
    for one in found:
        click.echo(one)
    click.echo(f"{n_pages} pages opened, {len(found)} faults")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
