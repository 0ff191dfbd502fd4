"""The page of test deliveries in a real browser, with and without JavaScript."""

import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from receiver.operations.delivery_trial import STEPS
from tests.dashboard.browsing import Scheme, start, violations, visit
from tests.support.front import running_front
from tests.support.processes import PATIENCE, Programs, Receiver, settings

SCHEMES: tuple[Scheme, ...] = ("light", "dark")

expect.set_options(timeout=PATIENCE * 1000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = start(playwright)
        yield browser
        browser.close()


@pytest.fixture
def gate() -> threading.Event:
    """Nothing passes the public address before it is set."""
    return threading.Event()


@pytest.fixture
def receiver(programs: Programs, gate: threading.Event) -> Iterator[Receiver]:
    with running_front() as front:
        front.gate = gate
        values = settings(programs.folder, RECEIVER_PUBLIC_URL=front.address)
        with programs.receiver(values) as receiver:
            front.target = receiver.address
            yield receiver
            gate.set()


def test_the_steps_appear_as_they_happen_for_everyone(
    browser: Browser, receiver: Receiver, gate: threading.Event
) -> None:
    with visit(browser, receiver.address) as page:
        page.goto("/")
        page.get_by_role("link", name="Test delivery").click()
        expect(page.get_by_role("heading", level=2)).to_have_text("None was sent yet")
        with page.expect_request("**/page/test-delivery/events"):
            page.get_by_role("button", name="Send a test delivery").click()
        expect(page.locator("#steps li").nth(1)).to_contain_text("under way")
        expect(page.get_by_role("button")).to_be_disabled()
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            assert violations(page) == [], scheme
        gate.set()
        expect(page.get_by_role("heading", level=2)).to_have_text("It worked")
        expect(page.locator("#steps li .end")).to_have_text(["done"] * len(STEPS))
        expect(page.get_by_role("button")).to_be_enabled()
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            assert violations(page) == [], scheme
        page.locator("#steps a.id").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("test-")


def test_a_remedy_with_a_long_address_scrolls_no_phone_sideways(browser: Browser, programs: Programs) -> None:
    values = settings(programs.folder, RECEIVER_PUBLIC_URL=f"http://127.0.0.1:9/{'a-long-path' * 9}")
    with programs.receiver(values) as receiver, visit(browser, receiver.address, width=360) as page:
        page.goto("/page/test-delivery")
        page.get_by_role("button").click()
        expect(page.get_by_role("heading", level=2)).to_have_text("It did not work")
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 360


def test_without_script_the_page_reloads_by_itself_until_the_end(
    browser: Browser, receiver: Receiver, gate: threading.Event
) -> None:
    with visit(browser, receiver.address, script=False) as page:
        page.goto("/page/test-delivery")
        page.get_by_role("button", name="Send a test delivery").click()
        expect(page.get_by_role("heading", level=2)).to_have_text("Under way")
        gate.set()
        expect(page.get_by_role("heading", level=2)).to_have_text("It worked")
        assert page.locator("meta[http-equiv=refresh]").count() == 0
