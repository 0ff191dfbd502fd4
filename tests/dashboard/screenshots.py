"""Takes the documentation's pictures of the page: ``python -m tests.dashboard.screenshots [--all FOLDER]``.

With ``--all`` every page is taken in both colour schemes and three widths, to be looked at.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import product
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from receiver.dashboard import trial_page
from tests.dashboard import stories
from tests.dashboard.browsing import Scheme, start, visit
from tests.support.front import running_front
from tests.support.processes import ROOT, Programs, Receiver, completion, settings
from tests.support.source import SIZE, Answer, picture, source

SCHEMES: tuple[Scheme, ...] = ("light", "dark")
WIDTHS = (360, 800, 1280)
NEW = "5d0c8a52-77d1-4a58-9d7f-2d7f0d2b8c11"


@contextmanager
def scene(folder: Path, name: str) -> Iterator[tuple[Receiver, str]]:
    """A receiver with a past, and the id of a job to look at."""
    now = time.time_ns() // 1_000_000
    job, data = "", folder / name / "data"
    with source() as host, running_front() as front:
        if name == "healthy":
            stories.told(stories.healthy(data, now))
        elif name in {"busy", "unwell"}:
            url = host.offer("slow.png", Answer(picture(1), gate=host.gate()))
            job = stories.told(stories.busy(data, now, url))
        else:
            (folder / name).mkdir(parents=True)
        values = settings(folder / name, RECEIVER_PUBLIC_URL=front.address)
        with Programs(folder / name).receiver(values) as receiver:
            front.target = receiver.address
            if name == "unwell":
                shutil.rmtree(data / "archive")
                (data / "archive").write_text("no folder")
                receiver.deliver(
                    completion(NEW, host.offer("good.png", picture(2)), *SIZE)
                ).raise_for_status()
                receiver.program.until_event("archive refuses; uploads pause")
            if name in {"busy", "unwell"}:
                host.until_asked("slow.png")
            yield receiver, job


def take(browser: Browser, address: str, path: str, *, scheme: Scheme, width: int, whole: bool) -> bytes:
    with visit(browser, address, scheme=scheme, width=width, height=860) as page:
        page.goto(path)
        page.wait_for_load_state("networkidle")
        if page.locator("img.after").count():
            compared = page.locator(".compare")
            compared.wait_for()
            if not whole:
                return compared.screenshot()
        if path == trial_page.PATH:
            page.get_by_role("button").click()
            page.get_by_role("heading", name="It worked").wait_for()
            if not whole:
                return page.locator("main").screenshot()
        return page.screenshot(full_page=whole)


def small(png: bytes) -> bytes:
    """The same with 256 colours, which a page of text does with."""
    target = BytesIO()
    with Image.open(BytesIO(png)) as picture_:
        colours = picture_.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        colours.save(target, "PNG", optimize=True)
    return target.getvalue()


def write(browser: Browser, receiver: Receiver, pages: Sequence[tuple[str, str, int]]) -> None:
    """Write pictures of pages, by path and width, into the documentation."""
    for (name, path, width), scheme in product(pages, SCHEMES):
        shot = take(browser, receiver.address, path, scheme=scheme, width=width, whole=False)
        (ROOT / "docs" / f"{name}-{scheme}.png").write_bytes(small(shot))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", type=Path, help="a folder for every page, scheme and width")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        browser = start(playwright)
        if chosen.all is not None:
            chosen.all.mkdir(parents=True, exist_ok=True)
            for name in ("empty", "healthy", "busy", "unwell"):
                with scene(Path(temporary), name) as (receiver, job):
                    pages = {"overview": "/?limit=6"}
                    if name == "busy":
                        done = receiver.get("/jobs?state=archived&limit=1").json()["jobs"][0]["id"]
                        pages |= {
                            "rejected": f"/page/jobs/{job}",
                            "archived": f"/page/jobs/{done}",
                            "gallery": "/page/gallery",
                            "deliveries": "/page/deliveries",
                            "filtered": "/?state=rejected&state=failed",
                            "missing": "/page/jobs/nobody",
                        }
                    for page, path in pages.items():
                        for scheme in SCHEMES:
                            for width in WIDTHS:
                                shot = take(
                                    browser, receiver.address, path, scheme=scheme, width=width, whole=True
                                )
                                (chosen.all / f"{name}-{page}-{scheme}-{width}.png").write_bytes(shot)
        else:
            with scene(Path(temporary), "busy") as (receiver, _):
                newest = receiver.get("/jobs?state=archived&limit=5").json()["jobs"]
                wide = next(job["id"] for job in newest if job["image"]["width"] == 960)
                stories.keep_source(Path(temporary) / "busy" / "data" / "archive", wide)
                shots = [
                    ("status-page", "/", 1100),
                    ("gallery", "/page/gallery", 1100),
                    ("compare", f"/page/jobs/{wide}", 1100),
                    ("compare-narrow", f"/page/jobs/{wide}", 390),
                ]
                write(browser, receiver, shots)
            with scene(Path(temporary), "trial") as (receiver, _):
                write(browser, receiver, [("test-delivery", trial_page.PATH, 800)])
        browser.close()


if __name__ == "__main__":
    main()
