"""A real Chromium on a real receiver's page; whatever it does that it should not is kept and told."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright

from tests.support.processes import API_TOKEN

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")

FLAGS = (
    "--no-sandbox",  # of a container's root; what is looked at is our own
    "--disable-dev-shm-usage",  # which is small in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

Scheme = Literal["light", "dark"]


def start(playwright: Playwright) -> Browser:
    """The system's Chromium."""
    program = next((path for path in map(shutil.which, PROGRAMS) if path), None)
    assert program, "tools/browser installs Chromium"
    return playwright.chromium.launch(executable_path=program, headless=True, args=list(FLAGS))


@dataclass
class Watch:
    """What a browser did that it should not.

    Attributes:
        strangers: requests that leave loopback.
        complaints: of the browser: scripts that failed, and what the content security policy refused.
    """

    strangers: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def over(self, context: BrowserContext) -> None:
        context.on("request", lambda request: self._request(request.url))
        context.on("console", self._said)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"data", "about"} and parts.hostname != "127.0.0.1":
            self.strangers.append(url)


@contextmanager
def visit(
    browser: Browser,
    address: str,
    *,
    scheme: Scheme = "light",
    width: int = 1280,
    height: int = 900,
    script: bool = True,
    touch: bool = False,
    watch: Watch | None = None,
) -> Iterator[Page]:
    """A window with the API token, as a browser has it once it was asked."""
    context = browser.new_context(
        base_url=address,
        http_credentials={"username": "anyone", "password": API_TOKEN},
        color_scheme=scheme,
        viewport={"width": width, "height": height},
        java_script_enabled=script,
        has_touch=touch,
        locale="en-GB",
        timezone_id="Europe/Prague",
    )
    try:
        if watch is not None:
            watch.over(context)
        yield context.new_page()
    finally:
        context.close()


def violations(page: Page) -> list[str]:
    """What axe-core finds against the page, best practices among it."""
    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {rule['help']}: {[node['target'] for node in rule['nodes']][:4]}" for rule in found
    ]
