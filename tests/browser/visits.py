"""Chromium, and visitors who open the page in it: each with a context of its own, all watched for what goes wrong.

Knows browsers; nothing of what is on the page, and nothing of pytest.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, WebSocket, sync_playwright

OUR_HOST = "127.0.0.1"
ACTION_WITHIN_MS = 30_000
CHROMIUM_FLAGS = (
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # The page must work without the internet, also where these tests run with one.
    f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {OUR_HOST}",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium without a window, for as long as the block lasts."""
    executable = shutil.which("chromium")
    if executable is None:
        raise FileNotFoundError(
            "The browser tests need the command chromium, and there is none. Run `make unit`, which installs it."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visits:
    """All pages that one test, or one set of screenshots, has open.

    Attributes:
        browser: they are opened in.
        url: of the app, with a slash at its end.
        page_errors: exceptions that no script caught and what the console showed as an error, from every page.
        foreign_requests: URLs asked of any host but 127.0.0.1.
    """

    browser: Browser
    url: str
    page_errors: list[str] = field(default_factory=list)
    foreign_requests: list[str] = field(default_factory=list)
    _contexts: list[BrowserContext] = field(default_factory=list)

    def open(
        self,
        path: str = "",
        *,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        reduced_motion: bool = False,
        phone: bool = False,
    ) -> Page:
        """Opens the page as a new visitor and returns once its tabs can be used.

        Args:
            path: after the app's URL, such as "?prompt=hello".
            width: of the window, CSS pixels.
            height: of the window.
            dark: the system asks for dark colours.
            reduced_motion: the system asks for less motion.
            phone: touch instead of a mouse, and a phone's way to lay out what is too wide.
        """
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce" if reduced_motion else "no-preference",
            has_touch=phone,
            is_mobile=phone,
            locale="en-GB",
            permissions=["clipboard-read", "clipboard-write"],
        )
        self._contexts.append(context)
        context.set_default_timeout(ACTION_WITHIN_MS)
        context.on("console", self._hear)
        context.on("weberror", lambda web_error: self.page_errors.append(f"uncaught: {web_error.error}"))
        context.on("request", self._see_request)
        page = context.new_page()
        page.on("websocket", self._see_request)
        page.goto(self.url + path)
        page.get_by_role("tab").first.wait_for()
        return page

    def pages(self) -> list[Page]:
        """Those open now, in the order they were opened."""
        return [page for context in self._contexts for page in context.pages]

    def save_pictures(self, folder: Path) -> list[Path]:
        """A picture of every open page."""
        pictures = []
        for number, page in enumerate(self.pages()):
            path = folder / f"page-{number}.png"
            page.screenshot(path=path, full_page=True)
            pictures.append(path)
        return pictures

    def problems(self, allowed_page_errors: str | None = None) -> list[str]:
        """What went wrong, one line each; page errors in which the regular expression is found are left out."""
        allowed = allowed_page_errors and re.compile(allowed_page_errors)
        unexpected = [error for error in self.page_errors if not (allowed and allowed.search(error))]
        return unexpected + [f"asked a foreign host: {url}" for url in self.foreign_requests]

    def close(self) -> None:
        """Closes every page; the visitors are gone."""
        while self._contexts:
            self._contexts.pop().close()

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.page_errors.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _see_request(self, request: Request | WebSocket) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != OUR_HOST:
            self.foreign_requests.append(request.url)
