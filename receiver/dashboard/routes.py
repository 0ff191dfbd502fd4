"""The routes of the status page."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from urllib.parse import quote

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from receiver.api import params
from receiver.archive.base import SmallPictures
from receiver.archive.key import source_key
from receiver.core.errors import REASONS, ArchiveError, LedgerError, ReceiverError, SpoolError
from receiver.core.jobs import Job, State, overdue_cutoff
from receiver.core.paths import webhook_paths
from receiver.dashboard import presenters, trial_page
from receiver.dashboard.charts import MINUTE, MOST_REASONS, Throughput, chart, durations, heights
from receiver.dashboard.gallery import Gallery
from receiver.dashboard.image_zip import ImageZips
from receiver.dashboard.links import filled, links
from receiver.dashboard.templates import PLACEHOLDER, Static, Templates
from receiver.dashboard.thumbnails import Thumbnails
from receiver.dashboard.trial_page import TrialPage
from receiver.ledger import Claim, Filter, Ledger
from receiver.operations.acceptance import RefusedBytes
from receiver.operations.delivery_trial import DeliveryTrials
from receiver.web.problem import retry_headers, status_of
from receiver.web.waiter_limit import WaiterLimit

log = structlog.get_logger("receiver.page")

ROWS = 50
"""Jobs on a page without ``limit``."""

BODIES = 20
"""Deliveries on a page without ``limit``."""

GLANCE = 8
"""Jobs in each list of the overview."""

NEWEST = 2_000
"""Archived jobs whose times are read at the start."""

COUNT_SECONDS = 15.0
"""Between two readings of how many jobs are archived."""

CHECK_SECONDS = 3.0
"""How long the checks of readiness may take before the page is shown without them."""

SOURCE_SECONDS = 2.0
"""How long a page waits to learn whether the archive has a picture of the source."""

# The pixels were decoded and encoded anew, so that nothing else of the untrusted file is left.
PICTURE_HEADERS = {"Content-Security-Policy": "default-src 'none'; sandbox"}

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(kw_only=True, eq=False)
class Dashboard:
    """The status page.

    Attributes:
        failing: returns the readiness checks that fail, each with a sentence.
        working: returns stage (``fetch``, ``ask``, ``archive``), claim and seconds of each job in progress.
        unasked: returns why the provider is not asked about silent jobs, in a sentence.
        thumbnails, previews: of the archived images, for lists and to be compared.
        sources: the archive of the small pictures to compare them with.
        providers: the titles of those that are on, by name.
    """

    ledger: Ledger
    accept_refused: Callable[[str, str], Awaitable[Job]]
    find_refused: Callable[[str], Awaitable[RefusedBytes]]
    thumbnails: Thumbnails
    previews: Thumbnails
    sources: SmallPictures
    zips: ImageZips
    trials: DeliveryTrials
    waiters: WaiterLimit
    failing: Callable[[], Awaitable[Mapping[str, str]]]
    working: Callable[[], Sequence[tuple[str, Claim, float]]]
    unasked: Callable[[], str | None]
    overdue_after: timedelta
    providers: Mapping[str, str]
    _static: Static = field(default_factory=Static, init=False)
    _throughput: Throughput = field(default_factory=Throughput, init=False)
    _week: tuple[int, str] = field(default=(0, ""), init=False)

    def __post_init__(self) -> None:
        self._templates = Templates(
            self._static, self.ledger.now, self._failing, self.providers, self.ledger.member.name
        )
        self._trials = TrialPage(self.trials, self.waiters, self._templates)
        self._gallery = Gallery(self.ledger, self._templates, self.zips)

    def routes(self) -> list[Route]:
        pages: Sequence[tuple[str, str, Handler]] = (
            ("GET", "/", self.overview),
            ("GET", "/page/jobs/{id}", self.job),
            ("POST", "/page/jobs/{id}/accept", self.accept),
            ("POST", "/page/jobs/{id}/retry", self.retry),
            ("GET", "/page/gallery", self._gallery.show),
            ("POST", "/page/gallery/zip", self._gallery.download),
            ("GET", "/page/deliveries", self.deliveries),
            ("GET", trial_page.PATH, self._trials.show),
            ("POST", f"{trial_page.PATH}/send/{{provider}}", self._trials.start),
        )
        others: Sequence[tuple[str, Handler]] = (
            ("/page/jobs/{id}/thumbnail", self.thumbnail),
            ("/page/jobs/{id}/preview", self.preview),
            ("/page/jobs/{id}/source", self.source),
            (f"{trial_page.PATH}/events", self._trials.events),
            *((path, self._trials.picture) for name in self.providers for path in webhook_paths(name)),
            ("/static/{name}", self._static.answer),
        )
        return [
            *(Route(path, self._with_error_pages(show), methods=[method]) for method, path, show in pages),
            *(Route(path, answer, methods=["GET"]) for path, answer in others),
        ]

    async def aclose(self) -> None:
        await self._trials.aclose()

    async def count_archived(self) -> None:
        """Count archived jobs by minute, and draw the last days anew each minute, until cancelled."""
        begun = False
        while True:
            try:
                total, newest = await self.ledger.archived_lately(0 if begun else NEWEST)
                if begun:
                    self._throughput.add(total, self.ledger.now())
                else:
                    self._throughput.begin(total, newest, NEWEST, self.ledger.now())
                    begun = True
                if self._week[1] and self._week[0] != self.ledger.now() // MINUTE:
                    await self._draw_week(self.ledger.now())
            except LedgerError as error:  # the minutes stay unknown
                log.warning("the ledger cannot be read", reason=error.reason, detail=error.detail)
            await asyncio.sleep(COUNT_SECONDS)

    async def overview(self, request: Request) -> Response:
        """``GET /``: the overview, and a table of jobs with the filters of ``GET /jobs``."""
        given = filled(request.query_params)
        overdue_before = overdue_cutoff(self.ledger.now(), self.overdue_after)
        wanted, window = params.jobs(given, overdue_before=overdue_before, limit=ROWS)
        failing = await self._failing()
        glance = await self.ledger.overview(overdue_before=overdue_before, limit=GLANCE)
        page = await self.ledger.jobs(wanted, before=window.before, limit=window.limit)
        now = self.ledger.now()
        self._throughput.add(glance.stats.jobs[State.ARCHIVED], now)
        return await self._templates.answer(
            "overview",
            headline=presenters.headline(glance, failing),
            failing=failing,
            overview=glance,
            working=self.working(),
            unasked=self.unasked(),
            chart=chart(self._throughput.last_hour(now), now),
            jobs=page.jobs,
            wanted=wanted,
            incomplete=page.incomplete,
            reasons=REASONS,
            overdue=given.get("overdue"),
            filtered=wanted != Filter(),
            week=await self._rendered_week(now),
            **links("/", "/jobs", given, window, page.next),
        )

    async def _rendered_week(self, now: int) -> str:
        """Return the panels of the last days; once shown, `count_archived` keeps them fresh."""
        if not self._week[1] or abs(now // MINUTE - self._week[0]) > 1:
            await self._draw_week(now)
        return self._week[1]

    async def _draw_week(self, now: int) -> None:
        week = await self.ledger.week(now)
        failures = list(week.failures.items())[:MOST_REASONS]
        text = self._templates.render(
            "_week",
            week=week,
            drawing=durations(week),
            heights=heights([size for _, size in week.days.values()]),
            total=sum(size for _, size in week.days.values()),
            failures=failures,
            failure_widths=heights([number for _, number in failures]),
        )
        self._week = now // MINUTE, text

    async def job(self, request: Request) -> Response:
        """``GET /page/jobs/{id}``: one job with its history."""
        params.nothing(request.query_params)
        job_id = request.path_params["id"]
        found = await self.ledger.job_with_history(job_id)
        if found is None:
            raise LedgerError("ledger.unknown_job", f"There is no job {presenters.visible(job_id)}.")
        job, history = found
        refused = None
        with suppress(LedgerError, SpoolError):
            refused = await self.find_refused(job_id)
        return await self._templates.answer(
            "job",
            job=job,
            refused=refused,
            working=[work for work in self.working() if work[1].job.id == job.id],
            before=await self._has_source(job.id),
            damage=await self.ledger.finding_of(job_id),
            history=history,
            json=f"/jobs/{quote(job_id, safe='')}",
        )

    async def deliveries(self, request: Request) -> Response:
        """``GET /page/deliveries``: the deliveries that were no completions, newest first."""
        given = filled(request.query_params)
        outcome, window = params.deliveries(given, limit=BODIES)
        page = await self.ledger.unread_deliveries(outcome, before=window.before, limit=window.limit)
        return await self._templates.answer(
            "deliveries",
            deliveries=[(unread, *presenters.body(unread.body)) for unread in page.deliveries],
            outcome=outcome,
            outcomes=params.UNREAD_OUTCOMES,
            **links("/page/deliveries", "/deliveries", given, window, page.next),
        )

    async def retry(self, request: Request) -> Response:
        """``POST /page/jobs/{id}/retry``: try the job again now."""
        params.nothing(request.query_params)
        job_id = request.path_params["id"]
        job = await self.ledger.try_now(job_id)
        log.info("retried", job=job.id, state=job.state)
        return RedirectResponse(f"/page/jobs/{quote(job_id, safe='')}", 303)

    async def accept(self, request: Request) -> Response:
        """``POST /page/jobs/{id}/accept``: let refused bytes be archived as they are."""
        job = await self.accept_refused(request.path_params["id"], params.accept(request.query_params))
        return RedirectResponse(f"/page/jobs/{quote(job.id, safe='')}", 303)

    async def thumbnail(self, request: Request) -> Response:
        """``GET /page/jobs/{id}/thumbnail``: a thumbnail of the archived image, or a placeholder."""
        return self._picture(await self.thumbnails.of(await self._job(request)))

    async def preview(self, request: Request) -> Response:
        """``GET /page/jobs/{id}/preview``: the archived image to be compared, or a placeholder."""
        return self._picture(await self.previews.of(await self._job(request)))

    async def source(self, request: Request) -> Response:
        """``GET /page/jobs/{id}/source``: the kept small picture of the source, or a placeholder."""
        job = await self._job(request)
        try:
            return self._picture(await self.sources.picture(source_key(job.id)))
        except ArchiveError as error:
            log.info("no look at the source", job=job.id, reason=error.reason, detail=error.detail)
            return self._picture(None)

    async def _has_source(self, job_id: str) -> bool:
        """Return whether the archive has a picture of the source; one without an answer counts as no."""
        try:
            async with asyncio.timeout(SOURCE_SECONDS):
                return await self.sources.has_picture(source_key(job_id))
        except (ArchiveError, TimeoutError):
            return False

    async def _job(self, request: Request) -> Job:
        params.nothing(request.query_params)
        job = await self.ledger.job(request.path_params["id"])
        if job is None:
            raise LedgerError("ledger.unknown_job")
        return job

    def _picture(self, webp: bytes | None) -> Response:
        if webp is None:
            content, kind, cache = PLACEHOLDER, "image/svg+xml", "no-store"
        else:
            content, kind, cache = webp, "image/webp", "private, max-age=86400, immutable"
        return Response(content, media_type=kind, headers={**PICTURE_HEADERS, "Cache-Control": cache})

    def _with_error_pages(self, handler: Handler) -> Handler:
        """Return the handler with its errors as pages."""

        async def with_error_page(request: Request) -> Response:
            try:
                return await handler(request)
            except ReceiverError as error:
                status = status_of(error.reason)
                ours = status == 503
                return await self._templates.answer(
                    "error",
                    status=status,
                    headers=retry_headers(status),
                    # The checks explain the receiver's own errors; a wrong request is none of them.
                    failing=None if ours else {},
                    title=HTTPStatus(status).phrase,
                    code=status,
                    ours=ours,
                    reason=error.reason,
                    error=error.detail,
                )

        return with_error_page

    async def _failing(self) -> Mapping[str, str]:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                return await self.failing()
        except TimeoutError:
            return {"checks": f"The checks did not end within {CHECK_SECONDS:g} seconds."}
