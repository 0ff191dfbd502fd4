"""The status page in a real browser, before a real receiver."""

import re
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from receiver.core.errors import REASONS
from tests.dashboard import stories
from tests.dashboard.browsing import Scheme, Watch, start, violations, visit
from tests.support.processes import API_TOKEN, PATIENCE, PROOF, Programs, Receiver, completion, settings
from tests.support.source import SIZE, Answer, Source, picture, sha256, source

SCHEMES: tuple[Scheme, ...] = ("light", "dark")

SLOW = PATIENCE * 1000
"""ms: a wait in vain ends."""

SHOW_AS = """visibility => {
    Object.defineProperty(document, "visibilityState", { value: visibility, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""

TOO_WIDE = """() => [...document.querySelectorAll("main *")].filter(element =>
    element.clientWidth && getComputedStyle(element).overflowX === "auto"
    && element.scrollWidth > element.clientWidth + 1).length
"""

expect.set_options(timeout=SLOW)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Of this module and not of the session: while Playwright runs, no other loop can in this thread.
    with sync_playwright() as playwright:
        browser = start(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def host() -> Iterator[Source]:
    with source() as host:
        yield host


@dataclass
class Scene:
    """A receiver with something of everything.

    Attributes:
        receiver: its client.
        rejected: the id of a job that was rejected.
        archived: the id of one that was archived.
    """

    receiver: Receiver
    rejected: str
    archived: str


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, host: Source) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("busy")
    url = host.offer("slow.png", Answer(picture(1), gate=host.gate()))
    rejected = stories.told(stories.busy(folder / "data", time.time_ns() // 1_000_000, url))
    with Programs(folder).receiver(settings(folder)) as receiver:
        host.until_asked("slow.png")
        archived = receiver.get("/jobs?state=archived&limit=1").json()["jobs"][0]["id"]
        stories.keep_source(folder / "data" / "archive", archived)
        yield Scene(receiver, rejected, archived)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """A receiver that each test brings jobs of its own to."""
    folder = tmp_path_factory.mktemp("fresh")
    with Programs(folder).receiver(settings(folder)) as receiver:
        yield receiver


Visit = Callable[..., AbstractContextManager[Page]]


@pytest.fixture
def opened(browser: Browser) -> Iterator[Visit]:
    """Opens windows; at the end nothing may have left loopback, and the browser may not have complained."""
    watch = Watch()

    def open_window(receiver: Receiver, **options: object) -> AbstractContextManager[Page]:
        return visit(browser, receiver.address, watch=watch, **options)  # type: ignore[arg-type]

    yield open_window
    assert watch.strangers == []
    assert watch.complaints == []


@pytest.fixture
def job_id() -> str:
    return str(uuid.uuid4())


def paths(scene: Scene) -> dict[str, str]:
    return {
        "overview": "/",
        "filtered": "/?state=rejected&state=failed",
        "nothing found": "/?ref=nobody",
        "rejected job": f"/page/jobs/{scene.rejected}",
        "archived job": f"/page/jobs/{scene.archived}",
        "gallery": "/page/gallery?limit=12",
        "deliveries": "/page/deliveries",
    }


PATHS = ["overview", "filtered", "nothing found", "rejected job", "archived job", "gallery", "deliveries"]


# What it says


def test_the_first_thing_that_is_read_is_whether_images_are_safe_and_until_when(
    busy: Scene, opened: Visit
) -> None:
    with opened(busy.receiver) as page:
        page.goto("/")
        expect(page.get_by_role("heading", level=1)).to_have_text("1 image is at risk.")
        answer = page.locator("#answer")
        expect(answer).to_contain_text("1 image was lost")
        expect(answer).to_contain_text("2 jobs are overdue")
        expect(answer.locator("time")).to_have_text(re.compile(r"in \d+ min \d\d s|in \d+ s"))
        assert page.title().startswith("1 image is at risk.")


def test_a_deadline_counts_down_before_ones_eyes(busy: Scene, opened: Visit) -> None:
    with opened(busy.receiver) as page:
        page.goto("/")
        countdown = page.locator("#answer time")
        first = countdown.inner_text()
        expect(countdown).not_to_have_text(first)
        deadline = busy.receiver.get("/stats").json()["soonest_deadline"]
        assert countdown.get_attribute("datetime") == deadline


def test_a_screen_reader_is_not_told_each_second_that_passes(busy: Scene, opened: Visit) -> None:
    """A change is read out as the nearest live region around it says; a timer says: not by itself."""
    with opened(busy.receiver) as page:
        page.goto("/")
        expect(page.locator("#answer[role=status] [data-until]")).to_have_count(1)
        nearest = "all => all.map(one => one.closest('[role=status], [role=timer], [aria-live]')?.role)"
        counting = page.locator("[data-until], [data-since]").evaluate_all(nearest)
        assert counting
        assert set(counting) == {"timer"}


def test_the_overview_shows_counts_work_failures_and_silence(busy: Scene, opened: Visit) -> None:
    with opened(busy.receiver) as page:
        page.goto("/")
        for state, number in busy.receiver.get("/stats").json()["states"].items():
            expect(page.locator(f"#counts a.{state} .number")).to_have_text(f"{number:,}")
        # A download in which nothing comes for 20 s is tried again: earlier tests may take longer.
        attempt = re.compile(r"downloading and verifying, attempt \d+")
        expect(page.locator("#working")).to_contain_text(attempt)
        expect(page.locator("#working")).to_contain_text(re.compile(r"started \d+ (s|min \d\d s) ago"))
        expect(page.locator("#trouble")).to_contain_text(REASONS["image.wrong_size"])
        expect(page.locator("#trouble")).to_contain_text(
            "The image is 320 \N{MULTIPLICATION SIGN} 213, not 640 \N{MULTIPLICATION SIGN} 426."
        )
        expect(page.locator("#overdue")).to_contain_text("order 4633 banner.png")
        expect(page.locator("#hour .figure .number")).to_have_text("40")
        assert page.locator("#hour svg .bar").count() > 10
        page.locator("#hour-table summary").click()
        cells = page.locator("#hour-table td").all_inner_texts()
        assert sum(map(int, cells)) == 40


def test_each_state_is_a_filter_and_the_form_filters_further(busy: Scene, opened: Visit) -> None:
    with opened(busy.receiver) as page:
        page.goto("/")
        page.locator("#counts a.rejected").click()
        expect(page.locator("table.jobs tbody tr")).to_have_count(2)
        page.get_by_label("Search").fill("order 4713")
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("table.jobs tbody tr")).to_have_count(1)
        expect(page.locator("table.jobs tbody tr")).to_contain_text("under none of RECEIVER_IMAGE_SOURCES")
        assert "search=order+4713" in page.url
        assert "state=rejected" in page.url
        page.get_by_role("link", name="Show all").click()
        expect(page.locator("table.jobs tbody tr")).to_have_count(48)
        page.get_by_role("combobox", name="Reason").select_option("image.wrong_size")
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("table.jobs tbody tr th a")).to_have_text([busy.rejected])
        json = page.get_by_role("link", name="JSON").get_attribute("href")
        assert json is not None
        assert [job["id"] for job in busy.receiver.get(json).json()["jobs"]] == [busy.rejected]


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
def test_the_last_week_is_drawn_and_its_tables_hold_the_numbers(
    busy: Scene,
    opened: Visit,
    script: bool,  # noqa: FBT001 - a parameter
) -> None:
    with opened(busy.receiver, script=script) as page:
        page.goto("/")
        for name, cells in (("durations", "td:nth-of-type(1)"), ("bytes", "td:nth-of-type(1)")):
            panel = page.locator(f"#{name}")
            expect(panel.get_by_role("img")).to_be_visible()
            panel.locator("summary").click()
            expect(panel.locator("tbody tr").first).to_be_visible()
            assert sum(map(int, panel.locator(f"tbody {cells}").all_inner_texts())) == 40
        assert len(page.locator("#durations svg path.bar").get_attribute("d") or "") > 10
        expect(page.locator("#failures tbody tr")).to_have_count(4)
        page.locator("#failures").get_by_role("link", name="image.wrong_size").click()
        expect(page.locator("table.jobs tbody tr th a")).to_have_text([busy.rejected])


def test_pages_hold_every_job_once(busy: Scene, opened: Visit) -> None:
    seen: list[str] = []
    with opened(busy.receiver) as page:
        page.goto("/?limit=20")
        while True:
            seen += page.locator("table.jobs tbody th a").all_inner_texts()
            following = page.get_by_role("link", name="Next page")
            if not following.count():
                break
            with page.expect_navigation():  # which ends when the page is there as a whole
                following.click()
        page.get_by_role("link", name="First page").click()
        expect(page.locator("table.jobs tbody th a").first).to_have_text(seen[0])
    assert seen == [job["id"] for job in busy.receiver.get("/jobs?limit=1000").json()["jobs"]]


def test_a_job_shows_its_history_its_sizes_and_its_picture(busy: Scene, opened: Visit) -> None:
    job = busy.receiver.job(busy.archived)
    with opened(busy.receiver) as page:
        page.goto(f"/page/jobs/{busy.archived}")
        facts = page.locator("#facts")
        expect(facts).to_contain_text(job["image"]["sha256"])
        expect(facts).to_contain_text(job["archive"]["uri"])
        expect(facts).to_contain_text("640 \N{MULTIPLICATION SIGN} 426")
        titles = page.locator(".timeline strong").all_inner_texts()
        assert titles == [
            "Completion recorded",
            "Fetched and verified",
            "Archived, and proved to be in the archive",
        ]
        small = page.get_by_role("img", name=re.compile("archived image"))
        assert small.evaluate("async image => { await image.decode(); return image.naturalWidth }") > 100
        before = page.get_by_role("link", name=re.compile(r"shop\.example\.com"))
        assert set((before.get_attribute("rel") or "").split()) >= {"noreferrer", "noopener"}
        assert "key=secret" not in before.inner_text()
        assert page.get_by_role("button", name="Try again now").count() == 0


# Before and after

AFTER_IS_CUT_AT = """() => {
    const cut = getComputedStyle(document.querySelector(".sheet .after")).clipPath.match(/([\\d.]+)px\\)$/);
    const view = document.querySelector(".view");
    const edge = document.querySelector(".sheet").offsetLeft + Number(cut[1]) - view.scrollLeft;
    return Math.round((100 * edge) / view.clientWidth);
}"""
"""How much of what is seen is before, in percent."""


def until(page: Page, condition: str) -> None:
    """
    Wait until a JavaScript condition holds, for 30 s at most.

    Playwright's `wait_for_function` evaluates its text anew at each look, and a page's policy without
    `unsafe-eval` forbids that from the second look on. Here the page keeps one compiled function.
    """
    page.evaluate(f"""new Promise((hold, fail) => {{
        setTimeout(() => fail(new Error("never so within 30 s")), 30_000);
        const look = () => ({condition} ? hold() : requestAnimationFrame(look));
        look();
    }})""")


def test_a_divider_between_before_and_after_moves_by_keyboard_and_holds_at_any_zoom(
    busy: Scene, opened: Visit
) -> None:
    with opened(busy.receiver) as page:
        page.goto(f"/page/jobs/{busy.archived}")
        slider = page.get_by_role("slider", name="Divider between before and after")
        slider.focus()
        for _ in range(10):
            page.keyboard.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") == "60 % before, 40 % after"
        assert page.evaluate(AFTER_IS_CUT_AT) == 60
        view = page.get_by_role("region", name="Both pictures, one over the other")
        view.focus()
        for _ in range(4):
            page.keyboard.press("+")
        expect(page.locator(".zoom output")).to_have_text("4\N{MULTIPLICATION SIGN}")
        before = view.evaluate("view => view.scrollLeft")
        page.keyboard.press("ArrowRight")
        until(page, f"document.querySelector('.view').scrollLeft > {before}")
        until(page, f"({AFTER_IS_CUT_AT})() === 60")
        page.keyboard.press("-")
        expect(page.locator(".zoom output")).to_have_text("3\N{MULTIPLICATION SIGN}")
        assert violations(page) == []
        page.get_by_role("button", name="Side by side").click()
        expect(page.locator("#images img.before")).to_be_visible()
        expect(page.locator("#images img.after")).to_be_visible()
        expect(slider).to_be_hidden()


def test_a_divider_moves_by_touch_on_a_phone(busy: Scene, opened: Visit) -> None:
    with opened(busy.receiver, width=360, height=740, touch=True) as page:
        page.goto(f"/page/jobs/{busy.archived}")
        divider = page.locator(".divider")
        divider.scroll_into_view_if_needed()
        box = page.locator(".stage").bounding_box()
        assert box is not None
        y = box["y"] + box["height"] / 2
        touch = page.context.new_cdp_session(page)
        places = [box["x"] + box["width"] * share for share in (0.5, 0.4, 0.25)]
        for kind, x in zip(("touchStart", "touchMove", "touchMove"), places, strict=True):
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        expect(page.get_by_role("slider")).to_have_value(re.compile("2[4-6]"))
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 360


def test_times_of_a_job_stay_within_its_facts_on_the_narrowest_screen(busy: Scene, opened: Visit) -> None:
    with opened(busy.receiver, width=320, height=640) as page:
        page.goto(f"/page/jobs/{busy.archived}")
        facts = page.locator(".facts").bounding_box()
        times = [it.bounding_box() for it in page.locator(".facts time").all()]
        assert facts is not None
        assert times
        assert all(it and it["x"] + it["width"] <= facts["x"] + facts["width"] + 0.5 for it in times)


def test_without_script_before_and_after_stand_side_by_side(busy: Scene, opened: Visit) -> None:
    with opened(busy.receiver, script=False) as page:
        page.goto(f"/page/jobs/{busy.archived}")
        for kind in ("before", "after"):
            expect(page.locator(f"#images img.{kind}")).to_be_visible()
        boxes = [page.locator(f"#images img.{kind}").bounding_box() for kind in ("before", "after")]
        assert boxes[0] is not None
        assert boxes[1] is not None
        assert abs(boxes[0]["y"] - boxes[1]["y"]) < 1 < boxes[1]["x"] - boxes[0]["x"]
        expect(page.get_by_role("slider")).to_have_count(0)


# The gallery


def test_the_gallery_without_script_filters_pages_selects_and_downloads(busy: Scene, opened: Visit) -> None:
    with opened(busy.receiver, script=False) as page:
        page.goto("/page/gallery?limit=15")
        expect(page.locator(".tile")).to_have_count(15)
        page.get_by_role("link", name="Next page").click()
        page.wait_for_url(re.compile("cursor="))
        for number in (0, 2):
            page.locator(".tile input").nth(number).check()
        chosen = [page.locator(".tile input").nth(number).get_attribute("value") for number in (0, 2)]
        with page.expect_download() as begun:
            page.get_by_role("button", name="Download selected").click()
        with zipfile.ZipFile(begun.value.path()) as zipped:
            assert zipped.testzip() is None
            assert [Path(name).stem for name in zipped.namelist()] == chosen
        page.get_by_label("Reference").fill("order 4701 meadow-03")
        page.get_by_role("button", name="Filter").click()
        page.wait_for_url(re.compile(r"ref=order\+4701\+meadow-03"))
        expect(page.locator(".tile")).to_have_count(1)


def test_further_images_come_by_themselves_and_a_range_is_selected_by_keyboard_and_mouse(
    busy: Scene, opened: Visit
) -> None:
    with opened(busy.receiver) as page:
        page.goto("/page/gallery?limit=15")
        while page.locator(".tile").count() < 40:
            page.locator(".tile").last.scroll_into_view_if_needed()
        expect(page.get_by_role("link", name="Next page")).to_have_count(0)
        ids = page.locator(".tile input").evaluate_all("all => all.map(one => one.value)")
        assert len(set(ids)) == 40
        page.locator(".tile input").first.focus()
        page.keyboard.press("Space")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.value") == ids[1]
        page.locator(".tile input").nth(4).click(modifiers=["Shift"])
        expect(page.locator("#picked")).to_have_text("5 of 40 shown selected.")
        assert violations(page) == []
        with page.expect_download() as begun:
            page.get_by_role("button", name="Download all").click()
        with zipfile.ZipFile(begun.value.path()) as zipped:
            assert len(zipped.namelist()) == 40
        page.goto("/page/gallery?ref=order+4701+meadow-03")
        expect(page.locator("#picked")).to_have_text("0 of 1 shown selected, and 5 not shown.")
        page.locator(".tile input").check()
        with page.expect_download() as begun:
            page.get_by_role("button", name="Download selected").click()
        with zipfile.ZipFile(begun.value.path()) as zipped:
            assert len(zipped.namelist()) == 6
        page.get_by_role("button", name="Clear selection").click()
        expect(page.locator("#picked")).to_have_text("0 of 1 shown selected.")
        page.go_back()
        expect(page.locator("#picked")).to_have_text(re.compile(r"\b0 of \d+ shown selected\.$"))


# What changes


def test_a_job_that_changes_changes_on_the_page_and_nothing_else_moves(
    fresh: Receiver, host: Source, opened: Visit, job_id: str
) -> None:
    gate = host.gate()
    url = host.offer(job_id, Answer(picture(5), gate=gate))
    fresh.deliver(completion(job_id, url, *SIZE)).raise_for_status()
    with opened(fresh) as page:
        page.goto("/")
        row = page.locator(f'table.jobs tr[data-key="{job_id}"]')
        expect(row).to_contain_text("received")
        expect(page.locator("#working")).to_contain_text(job_id)
        page.locator("#hour-table summary").click()
        link = row.get_by_role("link")
        link.focus()
        page.evaluate("window.marked = true")
        link.evaluate("link => { link.marked = true }")
        scrolled = page.evaluate("scrollTo(0, 120), scrollY")

        gate.set()

        expect(row).to_contain_text("archived")
        expect(page.locator("#working")).not_to_contain_text(job_id)
        expect(page.locator("#answer h1")).to_have_text("Every image that came is archived.")
        assert page.evaluate("window.marked && document.activeElement.marked")
        assert page.evaluate("scrollY") == scrolled
        assert page.locator("#hour-table").get_attribute("open") is not None
        assert row.locator("img").evaluate("async i => { await i.decode(); return i.naturalWidth }") > 0


def test_a_new_job_comes_up_at_the_top_of_the_list(fresh: Receiver, opened: Visit, job_id: str) -> None:
    with opened(fresh) as page:
        page.goto("/")
        fresh.post("/jobs", json={"id": job_id, "ref": "fresh"}).raise_for_status()
        expect(page.locator("table.jobs tbody tr").first).to_contain_text(job_id)


def test_a_hidden_tab_asks_for_nothing(fresh: Receiver, opened: Visit) -> None:
    with opened(fresh) as page:
        page.clock.install(time=0)
        page.clock.pause_at(1)  # so that it asks for nothing while it is still visible
        page.goto("/")
        asked: list[str] = []

        def note(request: Request) -> None:
            if request.resource_type == "fetch":  # and not an image that was still to come
                asked.append(request.url)

        page.on("request", note)
        page.evaluate(SHOW_AS, "hidden")
        page.clock.run_for(60_000)
        assert asked == []
        with page.expect_request(lambda request: request.url == page.url):
            page.evaluate(SHOW_AS, "visible")


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
def test_a_rejected_job_is_retried_by_a_button(
    fresh: Receiver,
    host: Source,
    opened: Visit,
    job_id: str,
    script: bool,  # noqa: FBT001 - a parameter
) -> None:
    url = host.offer(job_id, picture(6))
    fresh.deliver(completion(job_id, url, 1, 1), {**PROOF, "X-Receiver-Ref": "again"}).raise_for_status()
    assert fresh.ended(job_id)["state"] == "rejected"
    with opened(fresh, script=script) as page:
        page.goto(f"/page/jobs/{job_id}")
        page.get_by_role("button", name="Try again now").click()
        assert page.url == f"{fresh.address}/page/jobs/{job_id}"
        expect(page.get_by_role("heading", level=1)).to_have_text(job_id)
        expect(page.locator(".timeline")).to_contain_text("Retried by an operator")
    assert [event["event"] for event in fresh.job(job_id)["history"]].count("retried") == 1


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
def test_refused_bytes_are_shown_and_accepted_by_a_button(
    fresh: Receiver,
    host: Source,
    opened: Visit,
    job_id: str,
    script: bool,  # noqa: FBT001 - a parameter
) -> None:
    content = b"<!doctype html><script>alert(1)</script>"
    fresh.deliver(completion(job_id, host.offer(job_id, content), 1, 1)).raise_for_status()
    assert fresh.ended(job_id)["state"] == "rejected"
    with opened(fresh, script=script) as page:
        page.goto(f"/page/jobs/{job_id}")
        expect(page.locator("#images")).to_contain_text("unknown format, 40 bytes")
        expect(page.locator("#images")).to_contain_text(sha256(content))
        with page.expect_download() as begun:
            page.get_by_role("link", name="The refused bytes").click()
        assert begun.value.path().read_bytes() == content
        page.get_by_role("button", name="Accept and archive them unchanged").click()
        assert page.url == f"{fresh.address}/page/jobs/{job_id}"
        expect(page.locator(".timeline")).to_contain_text("Accepted by an operator")
        assert fresh.ended(job_id)["state"] == "archived"
        page.reload()
        expect(page.locator("#images")).to_contain_text("Accepted by an operator in spite of")
        with page.expect_download() as begun:
            page.get_by_role("link", name="The archived image", exact=True).click()
        assert begun.value.path().read_bytes() == content
        assert page.url == f"{fresh.address}/page/jobs/{job_id}"


def test_another_sites_page_retries_and_accepts_nothing(fresh: Receiver, job_id: str) -> None:
    fresh.post("/jobs", json={"id": job_id}).raise_for_status()
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        for button in ("retry", f"accept?sha256={'0' * 64}"):
            answer = fresh.post(f"/page/jobs/{job_id}/{button}", headers=headers)
            assert (answer.status_code, answer.json()["reason"]) == (403, "auth.cross_origin")


# When something is wrong


def test_a_receiver_that_is_gone_is_told_with_the_time_since_when(
    tmp_path: Path, programs: Programs, browser: Browser
) -> None:
    with (
        programs.receiver_process(settings(tmp_path)) as receiver,
        visit(browser, receiver.address) as page,
    ):
        page.goto("/")
        expect(page.locator("#stale")).to_be_hidden()
        receiver.program.kill()
        expect(page.locator("#stale")).to_be_visible()
        expect(page.locator("#stale")).to_contain_text(re.compile(r"Not refreshed since \d\d:\d\d:\d\d UTC"))
        expect(page.get_by_role("heading", level=1)).to_have_text("Nothing has come yet.")


def test_an_archive_that_refuses_stands_on_every_page(
    tmp_path: Path, programs: Programs, host: Source, opened: Visit, job_id: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "archive").write_text("no folder")
    with programs.receiver(settings(tmp_path)) as receiver:
        url = host.offer(job_id, picture(7))
        receiver.deliver(completion(job_id, url, *SIZE)).raise_for_status()
        receiver.program.until_event("archive refuses; uploads pause")
        receiver.program.until_event("fetched", job=job_id)
        with opened(receiver) as page:
            for path in ("/", f"/page/jobs/{job_id}", "/page/deliveries"):
                page.goto(path)
                expect(page.get_by_role("heading", name="The receiver has a problem")).to_be_visible()
                expect(page.locator("#failing dt")).to_have_text("archive")
            page.goto("/")
            expect(page.get_by_role("heading", level=1)).to_contain_text("is safe")
            assert violations(page) == []


def test_a_question_that_cannot_be_is_answered_by_a_page_that_names_it(
    fresh: Receiver, browser: Browser
) -> None:
    with visit(browser, fresh.address) as page:
        answer = page.goto("/?state=lost")
        assert answer is not None
        assert answer.status == 422
        expect(page.locator("main")).to_contain_text("state is none of submitted")
        assert violations(page) == []
        answer = page.goto("/page/jobs/nobody")
        assert answer is not None
        assert answer.status == 404
        expect(page.get_by_role("heading", level=1)).to_have_text("There is no job of this id.")


# Strangers' texts


def test_whatever_a_stranger_writes_is_shown_as_text(
    fresh: Receiver, host: Source, opened: Visit, job_id: str
) -> None:
    ref = "\"><script>document.title='owned'</script><img src=x onerror=alert(1)>"
    failure = {
        "id": job_id,
        "status": "FAILED",
        "response": {"records": [{"_status": {"text": stories.HOSTILE}}]},
    }
    fresh.deliver(failure, {**PROOF, "X-Receiver-Ref": ref}).raise_for_status()
    fresh.deliver(stories.HOSTILE.encode())
    with opened(fresh) as page:
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        for path in ("/", f"/page/jobs/{job_id}", "/page/deliveries"):
            page.goto(path)
            text = page.locator("main").inner_text()
            assert "<script>" in text
            assert page.locator("main script, main img[src=x]").count() == 0
            assert not set(text) & set("\x1b\u202e\u2066\u200b")
        assert "\\u{202E}gnp.exe" in text
        assert "owned" not in page.title()


# For everyone


@pytest.mark.parametrize("path", PATHS)
def test_axe_finds_nothing_in_either_scheme_and_a_phone_scrolls_nothing_sideways(
    busy: Scene, opened: Visit, path: str
) -> None:
    with opened(busy.receiver) as page:
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            page.goto(paths(busy)[path])
            page.wait_for_load_state("networkidle")
            assert violations(page) == [], scheme
        page.set_viewport_size({"width": 360, "height": 740})
        page.reload()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
        assert page.evaluate(TOO_WIDE) == 0


def test_an_empty_receiver_says_so_and_axe_finds_nothing(
    tmp_path: Path, programs: Programs, opened: Visit
) -> None:
    with programs.receiver(settings(tmp_path)) as receiver, opened(receiver) as page:
        page.goto("/")
        expect(page.get_by_role("heading", level=1)).to_have_text("Nothing has come yet.")
        expect(page.locator("#jobs")).to_contain_text("No job yet.")
        assert violations(page) == []
        page.goto("/page/deliveries")
        expect(page.locator("main")).to_contain_text("Every delivery could be read.")


def test_the_keyboard_comes_first_to_the_content_and_sees_where_it_is(busy: Scene, opened: Visit) -> None:
    with opened(busy.receiver) as page:
        page.goto("/")
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.locator("#main :focus")).to_have_css("outline-style", "solid")


def test_without_script_all_of_it_is_there_and_times_are_absolute(busy: Scene, opened: Visit) -> None:
    with opened(busy.receiver, script=False) as page:
        page.goto("/")
        expect(page.get_by_role("heading", level=1)).to_have_text("1 image is at risk.")
        expect(page.locator("#answer time")).to_have_text(re.compile(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d"))
        expect(page.locator("footer")).to_contain_text("Reload the page for newer ones.")
        page.get_by_label("Search").fill("order 4712 lab")
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("table.jobs tbody tr th a")).to_have_text([busy.rejected])
        page.get_by_role("link", name=busy.rejected).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(busy.rejected)


def test_no_answer_holds_a_secret_and_all_forbid_what_is_not_needed(busy: Scene) -> None:
    for path in [*paths(busy).values(), "/page/jobs/nobody"]:
        answer = busy.receiver.get(path)
        assert API_TOKEN not in answer.text
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?! src=)| style=| on[a-z]+=\"", answer.text)
    assert httpx.get(busy.receiver.address, trust_env=False).status_code == 401
