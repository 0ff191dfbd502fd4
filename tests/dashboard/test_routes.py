"""The page's routes over a real ledger: what a healthy receiver does not show on demand."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from receiver.archive.factory import open_archive
from receiver.core.errors import BodyError, FetchError
from receiver.core.jobs import State
from receiver.dashboard.image_zip import ImageZips
from receiver.dashboard.routes import GLANCE, Dashboard
from receiver.dashboard.thumbnails import THUMBNAIL_MEMORY, Thumbnails
from receiver.ledger import FILE_NAME, AuditFinding, Claim, Ledger, Submission
from receiver.operations import acceptance
from receiver.operations.delivery_trial import SILENT_MS, DeliveryTrials, Step, Trial
from receiver.pipeline.spool import Spool
from receiver.verify.decoder import Limits
from receiver.verify.verifier import Verifier
from receiver.web.waiter_limit import WaiterLimit
from tests.dashboard.stories import HOSTILE
from tests.ledger.actions import TIMEOUT, brought_to, claimed, delivery
from tests.support.clock import HOUR, NOW, Clock
from tests.support.ledgers import make_empty_ledger
from tests.support.processes import PATIENCE
from tests.support.providers import NAME


@dataclass
class Around:
    """What the page is told of the rest of the receiver."""

    failing: dict[str, str] = field(default_factory=dict)
    work: list[tuple[str, Claim, float]] = field(default_factory=list)
    unasked: str | None = None

    async def checks(self) -> dict[str, str]:
        return self.failing


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def around() -> Around:
    return Around()


@pytest.fixture
async def ledger(tmp_path: Path, clock: Clock) -> AsyncIterator[Ledger]:
    ledger = await Ledger.serve(make_empty_ledger(tmp_path), now=clock)
    yield ledger
    await ledger.close()


@pytest.fixture
async def page(tmp_path: Path, ledger: Ledger, clock: Clock, around: Around) -> AsyncIterator[Dashboard]:
    archive = open_archive((tmp_path / "archive").as_uri())
    spool = Spool(tmp_path / "spool", max_bytes=1000, max_image_bytes=100, reserve=0)
    async with Verifier(Limits(10_000_000, 20, THUMBNAIL_MEMORY), processes=1) as verifier:
        previews = Thumbnails.for_comparison(tmp_path / "previews", archive, verifier)
        previews.wait = PATIENCE
        yield Dashboard(
            ledger=ledger,
            find_refused=partial(acceptance.find_refused, ledger, spool),
            accept_refused=partial(acceptance.accept, ledger, spool),
            thumbnails=Thumbnails(tmp_path / "thumbnails", archive, verifier, wait=PATIENCE),
            previews=previews,
            sources=archive,
            zips=ImageZips(ledger, archive, tmp_path / "scratch"),
            trials=DeliveryTrials(ledger=ledger, providers={}, address="", confirm=False),
            waiters=WaiterLimit(1),
            failing=around.checks,
            working=lambda: around.work,
            unasked=lambda: around.unasked,
            overdue_after=timedelta(minutes=10),
            providers={NAME: "Ximilar"},
        )
    await archive.aclose()


@pytest.fixture
async def client(page: Dashboard) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(Starlette(routes=page.routes()))
    async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
        yield client


def text(answer: httpx.Response) -> str:
    """What of a page is read, blanks aside."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.text))


@contextmanager
def damaged(folder: Path) -> Iterator[None]:
    """While the ledger's file holds something else."""
    paths = [folder / f"{FILE_NAME}{end}" for end in ("", "-wal")]
    sound = [path.read_bytes() for path in paths]
    for path, content in zip(paths, sound, strict=True):
        path.write_bytes(b"\xff" * len(content))
    try:
        yield
    finally:
        for path, content in zip(paths, sound, strict=True):
            path.write_bytes(content)


async def test_a_ledger_that_cannot_be_read_is_a_503_that_shows_no_number(
    client: httpx.AsyncClient, ledger: Ledger, around: Around, tmp_path: Path
) -> None:
    await brought_to(ledger, State.ARCHIVED)
    around.failing = {"ledger": "The ledger's file is damaged."}
    with damaged(tmp_path):
        answers = [await client.get(path) for path in ("/", "/page/jobs/job-1", "/page/deliveries")]

    for answer in answers:
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert "The state of your images cannot be read now." in text(answer)
        assert "The ledger's file is damaged." in text(answer).replace("&#39;", "'")
        assert 'id="counts"' not in answer.text


async def test_checks_that_do_not_end_do_not_hold_up_the_page(
    client: httpx.AsyncClient, page: Dashboard, around: Around
) -> None:
    async def never() -> dict[str, str]:
        await asyncio.Event().wait()
        raise AssertionError

    page.failing = never
    answer = await client.get("/")

    assert answer.status_code == 200
    assert "The checks did not end within 3 seconds." in text(answer)


async def test_every_failing_check_stands_on_every_page(
    client: httpx.AsyncClient, ledger: Ledger, around: Around
) -> None:
    await ledger.record(delivery())
    around.failing = {"workers": "A worker has ended.", "archive": "<b>denied</b>"}
    for path in ("/", "/page/jobs/job-1", "/page/deliveries"):
        answer = await client.get(path)
        assert "A worker has ended." in text(answer)
        assert "&lt;b&gt;denied&lt;/b&gt;" in answer.text
    overview = text(await client.get("/"))
    assert "1 image is not safe yet. Nothing can be fetched now." in overview
    assert "Nothing, and a worker has a problem." in overview


async def test_a_job_whose_object_an_audit_missed_is_not_called_safe(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    await brought_to(ledger, State.ARCHIVED)
    (numbered,) = await ledger.archived_jobs(after=0, limit=1)
    assert "The image is in the archive" in text(await client.get("/page/jobs/job-1"))

    await ledger.record_audit([], [AuditFinding(numbered.seq, "archive.missing", "<b>gone</b>")])

    shown = text(await client.get("/page/jobs/job-1"))
    assert "The image is in the archive" not in shown
    assert "The archived object is not there. archive.missing As the last audit found: &lt;b&gt;gone" in shown
    overview = text(await client.get("/"))
    assert "Every image that came is archived." not in overview
    assert "Found by the last audit ✓ archived job-1 The archived object is not there." in overview
    assert "1 archived image: the object is missing" in overview


async def test_a_provider_that_cannot_be_asked_is_named_beside_the_silent_jobs(
    client: httpx.AsyncClient, around: Around
) -> None:
    assert "The provider" not in text(await client.get("/"))
    around.unasked = "The provider gave no answer."
    assert "The provider gave no answer." in text(await client.get("/"))


async def test_what_is_worked_on_is_shown_with_stage_attempt_and_time(
    client: httpx.AsyncClient, ledger: Ledger, around: Around
) -> None:
    await ledger.record(delivery())
    claim = await claimed(ledger)
    around.work = [("fetch", claim, 61.5)]
    for path in ("/", "/page/jobs/job-1"):
        answer = await client.get(path)
        assert "downloading and verifying, attempt 1" in text(answer)
        assert f'data-since="{NOW - 61_500}"' in answer.text


async def test_deadlines_are_absolute_in_the_page_itself(client: httpx.AsyncClient, ledger: Ledger) -> None:
    await ledger.record(delivery(deadline=NOW + HOUR))
    answer = await client.get("/")

    assert f'data-until="{NOW + HOUR}">2026-11-18 12:06:40</time>' in answer.text


async def test_empty_fields_of_a_form_ask_for_nothing(client: httpx.AsyncClient, ledger: Ledger) -> None:
    await ledger.record(delivery())
    answer = await client.get("/?state=&ref=&reason=&since=&until=&overdue=")

    assert answer.status_code == 200
    assert "job-1" in text(answer)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/?state=lost", 422, "state is none of"),
        ("/?limit=1001", 422, "limit must be"),
        ("/?colour=red", 422, "is no parameter here"),
        ("/?cursor=%3Cscript%3E", 422, "cursor is no cursor"),
        ("/page/jobs/nobody", 404, "There is no job nobody."),
        ("/page/jobs/%3Cscript%3E", 404, "There is no job &lt;script&gt;."),
        ("/page/jobs/job-1?wait=1", 422, "is no parameter here"),
        ("/page/deliveries?outcome=lost", 422, "outcome is none of"),
    ],
)
async def test_a_question_that_cannot_be_is_a_page_too(
    client: httpx.AsyncClient, path: str, status: int, said: str
) -> None:
    answer = await client.get(path)

    assert answer.status_code == status
    assert said in text(answer)
    assert "<script>" not in answer.text


async def test_the_fields_show_what_was_asked_for(client: httpx.AsyncClient) -> None:
    answer = await client.get(
        "/?state=failed&ref=%22%3E%3Cb%3E&reason=url.port&since=2026-11-18T10:00:00Z&overdue=true&limit=7"
    )

    assert 'value="failed" checked' in answer.text
    assert 'value="&#34;&gt;&lt;b&gt;"' in answer.text
    assert '<option value="url.port" selected>' in answer.text
    assert 'value="2026-11-18T10:00:00"' in answer.text
    assert '<option value="true" selected>' in answer.text
    assert "/jobs?state=failed&amp;ref=%22%3E%3Cb%3E" in answer.text


async def test_lists_of_the_overview_stay_short(
    client: httpx.AsyncClient, ledger: Ledger, clock: Clock
) -> None:
    for number in range(GLANCE + 5):
        await ledger.record(delivery(f"job-{number}"))
        await ledger.expect(Submission(f"silent-{number}"))
    clock.forward(HOUR)
    answer = await client.get("/?limit=1")

    assert answer.text.count("<li data-key=") == 2 * GLANCE


async def test_a_retry_leads_back_to_the_job_or_says_why_not(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    await ledger.record(delivery())
    await ledger.retry_later(await claimed(ledger), NOW + HOUR, TIMEOUT)
    taken = await client.post("/page/jobs/job-1/retry")
    await ledger.expect(Submission("silent"))
    refused = await client.post("/page/jobs/silent/retry")
    unknown = await client.post("/page/jobs/nobody/retry")

    assert (taken.status_code, taken.headers["location"]) == (303, "/page/jobs/job-1")
    assert (await ledger.job("job-1")).next_attempt_at is None  # type: ignore[union-attr]
    assert (refused.status_code, unknown.status_code) == (409, 404)
    assert "is not tried again, because it is submitted" in text(refused)


async def test_hostile_texts_are_text_wherever_they_stand(client: httpx.AsyncClient, ledger: Ledger) -> None:
    await ledger.record(delivery("job-1", source="javascript:alert(1)//" + HOSTILE, ref=HOSTILE))
    claim = await claimed(ledger)
    await ledger.retry_later(claim, NOW + HOUR, FetchError("fetch.status", HOSTILE))
    await ledger.record_unread(BodyError("body.not_a_completion", HOSTILE), HOSTILE.encode())
    for path in ("/", "/page/jobs/job-1", "/page/deliveries"):
        answer = await client.get(path)
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text
        assert "<script>alert" not in answer.text
        assert "<img src=x" not in answer.text
        assert 'href="javascript' not in answer.text
        assert not set(answer.text) & set("\x1b\u202e\u2066\u200b")


async def test_a_timeline_names_a_state_where_it_is_entered(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    await brought_to(ledger, State.RECEIVED)
    await ledger.record(delivery(url="https://host/other.png"))  # a line that enters no state
    page = await client.get("/page/jobs/job-1")

    timeline = page.text.partition('<ol class="timeline">')[2]
    assert re.findall(r"<li(?: class=\"(\w+)\")?>", timeline) == ["received", ""]


async def test_static_files_are_kept_for_good_under_names_that_change_with_them(
    client: httpx.AsyncClient,
) -> None:
    page = await client.get("/")
    names = set(re.findall(r'"(/static/[^"]+)"', page.text))
    assert {name.rpartition(".")[2] for name in names} == {"css", "js", "svg"}
    for name in names:
        answer = await client.get(name)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    for name in ("/static/page.css", "/static/..%2fpage.py", "/static/"):
        assert (await client.get(name)).status_code == 404


async def test_where_there_is_no_picture_a_placeholder_stands(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    await ledger.record(delivery())
    answer = await client.get("/page/jobs/job-1/thumbnail")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "immutable" not in answer.headers["cache-control"]


async def test_pages_of_deliveries_follow_one_another(client: httpx.AsyncClient, ledger: Ledger) -> None:
    for number in range(3):
        await ledger.record_unread(BodyError("body.not_json"), b"body %d" % number)
    first = await client.get("/page/deliveries?limit=2")
    (following,) = re.findall(r'href="(/page/deliveries\?[^"]+)#list" rel="next"', first.text)
    second = await client.get(following.replace("&amp;", "&"))

    assert re.findall(r"body \d", text(first)) == ["body 2", "body 1"]
    assert re.findall(r"body \d", text(second)) == ["body 0"]
    assert "First page" in second.text


async def test_what_is_archived_is_counted_while_the_page_is_kept(
    client: httpx.AsyncClient, page: Dashboard, ledger: Ledger
) -> None:
    before = await client.get("/")
    assert "the grey minutes were not counted" in text(before)
    keeping = asyncio.create_task(page.count_archived())
    try:
        while "the grey minutes were not counted" in text(before):
            before = await client.get("/")
        await brought_to(ledger, State.ARCHIVED)
        after = await client.get("/")
    finally:
        keeping.cancel()
    assert re.search(r'<p class="figure"><span class="number">1</span>', after.text)


async def test_where_several_providers_are_on_the_page_shows_and_selects_them(
    page: Dashboard, ledger: Ledger
) -> None:
    for job_id in ("replicate:one", "two"):
        await ledger.record(delivery(job_id))
    several = replace(page, providers={NAME: "Ximilar", "replicate": "Replicate"})
    transport = httpx.ASGITransport(Starlette(routes=several.routes()))
    async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
        overview = (await client.get("/")).text
        narrowed = (await client.get("/?provider=replicate")).text
        job = (await client.get("/page/jobs/replicate:one")).text
    assert 'title="Replicate">Re</span>' in overview
    assert "two</a>" in overview
    assert "two</a>" not in narrowed.partition('id="list"')[2]
    assert '<option value="replicate" selected>Replicate</option>' in narrowed
    assert "<dd>Replicate</dd>" in job


async def test_the_search_field_finds_by_the_beginning_and_keeps_the_text(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    await ledger.record(delivery("8f0e-1", ref="order 17", source="https://shop.example/a.jpg"))
    await ledger.record(delivery("other", url="https://results.example/1.png", source=None))
    for searched in ("8f0e", "order 1", "shop.", "https://host/"):
        answer = await client.get("/", params={"search": searched})
        table = answer.text.partition('id="list"')[2]
        assert "8f0e-1</a>" in table
        assert "other</a>" not in table
        assert 'name="search" maxlength="253"' in answer.text
        assert f'value="{searched}"' in answer.text
    assert "No job matches." in text(await client.get("/?search=nobody"))
    assert "search must be 1 to 253" in text(await client.get("/?search=" + "a" * 254))


async def test_a_search_that_did_not_look_at_all_says_so(client: httpx.AsyncClient, ledger: Ledger) -> None:
    for number in range(101):
        await ledger.record(delivery(f"job-{number}", url=f"https://host-{number:03}.example/"))
    assert "Add to the text to find the others." in text(await client.get("/?search=host-"))
    assert "Add to the text" not in text(await client.get("/?search=host-01"))


async def test_reasons_that_occur_are_offered_first(client: httpx.AsyncClient, ledger: Ledger) -> None:
    assert "Of present jobs" not in (await client.get("/")).text
    await brought_to(ledger, State.REJECTED)
    page = (await client.get("/?reason=url.port")).text
    first, _, others = page.partition('<optgroup label="Of present jobs">')[2].partition("</optgroup>")
    assert re.findall('value="(.*?)"', first) == ["fetch.timeout"]
    assert '<option value="url.port" selected>' in others
    assert page.count('value="fetch.timeout"') == 1


async def test_the_last_week_is_drawn_with_tables_behind_it(
    client: httpx.AsyncClient, ledger: Ledger, clock: Clock
) -> None:
    empty = text(await client.get("/"))
    assert empty.count("No image was archived in the last 7 days.") == 2
    assert "Failures by reason None in the last 7 days." in empty
    await brought_to(ledger, State.ARCHIVED, "archived")
    await brought_to(ledger, State.REJECTED, "rejected")
    clock.forward(120_000)  # it is kept for a minute or two
    answer = await client.get("/")
    shown = text(answer)
    assert "0.0 s or less for half of the images, 0.0 s or less for 95 of 100" in shown
    assert "1000 bytes in 1 image in the last 7 days" in shown.replace("1,000", "1000")
    assert "Wed 18 1 0.0 s 0.0 s" in re.sub(r", \d\d:00", "", shown)
    assert "Wed 18 Nov 1 1,000 bytes Tue 17 Nov 0 0 bytes" in shown
    assert '<a href="/?reason=fetch.timeout#list">fetch.timeout</a>' in answer.text


async def test_a_test_delivery_that_was_killed_is_shown_as_cut_off_and_another_can_be_sent(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    killed = Trial(NAME, "test-1", "ticket", NOW - SILENT_MS, NOW - SILENT_MS, [Step("make")])
    await ledger.save_checkpoint("test delivery", json.dumps(asdict(killed)))
    shown = await client.get("/page/test-delivery")
    assert "cut off" in text(shown)
    assert "under way" not in text(shown)
    assert " disabled" not in shown.text
