"""The gallery: archived images by day, and a ZIP of those that are selected."""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import groupby
from urllib.parse import parse_qs, urlencode

import structlog
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from receiver.api import params
from receiver.core.completion import is_job_id
from receiver.core.errors import BodyError
from receiver.core.jobs import Job, State
from receiver.dashboard import presenters
from receiver.dashboard.image_zip import ImageZips
from receiver.dashboard.links import filled, links
from receiver.dashboard.templates import Templates
from receiver.ledger import Filter, Ledger
from receiver.web.body import BODY_SECONDS, read_body

log = structlog.get_logger("receiver.page")

TILES = 60
"""Images on a page without ``limit``."""

MAX_SELECTION_BYTES = 1 << 20
"""Of the form that names the selected images; some 20,000 ids."""

READ_AT_ONCE = 200
"""Jobs that are read in one query for a ZIP."""


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    ledger: Ledger
    templates: Templates
    zips: ImageZips

    async def show(self, request: Request) -> Response:
        """``GET /page/gallery``: archived images by day, with the filters of ``GET /jobs``."""
        given = filled(request.query_params)
        wanted, window = params.images(given, limit=TILES)
        page = await self.ledger.jobs(wanted, before=window.before, limit=window.limit)
        asked = given if "state" in given else QueryParams([("state", "archived"), *given.multi_items()])
        filters = [(name, value) for name, value in asked.multi_items() if name not in {"cursor", "limit"}]
        paging = links("/page/gallery", "/jobs", given, window, page.next)
        return await self.templates.answer(
            "gallery",
            days=by_day(page.jobs),
            wanted=wanted,
            filtered=bool({name for name, _ in filters} - {"state"}) or wanted.states != (State.ARCHIVED,),
            zip=f"/page/gallery/zip?{urlencode(filters)}",
            **{**paging, "json": links("/", "/jobs", asked, window, None)["json"]},
        )

    async def download(self, request: Request) -> Response:
        """``POST /page/gallery/zip``: the selected images, or with ``all`` those of the filters, as a ZIP."""
        wanted, _ = params.images(request.query_params)
        too_large = f"The selection is larger than {MAX_SELECTION_BYTES} bytes: use the filters instead."
        body = await read_body(request, MAX_SELECTION_BYTES, BODY_SECONDS, too_large=too_large)
        form = parse_qs(body.decode("ascii", "replace"))
        ids = list(dict.fromkeys(form.get("id", ())))
        if form.get("which") == ["all"]:
            selected = self._found(wanted)
        elif ids and all(map(is_job_id, ids)):
            selected = self._named(ids)
        else:
            raise BodyError("body.invalid", "No image is selected.")
        name = re.sub(r"[^0-9A-Za-z]+", "-", presenters.moment(self.templates.now()))
        return _Zip(
            await self.zips.open(selected),
            media_type="application/zip",
            headers={
                "Content-Disposition": f'attachment; filename="images-{name}.zip"',
                "Cache-Control": "no-store",
            },
        )

    async def _named(self, ids: Sequence[str]) -> AsyncGenerator[tuple[str, Job | None]]:
        for start in range(0, len(ids), READ_AT_ONCE):
            part = ids[start : start + READ_AT_ONCE]
            found = await self.ledger.jobs_among(part)
            for job_id in part:
                yield job_id, found.get(job_id)

    async def _found(self, wanted: Filter) -> AsyncGenerator[tuple[str, Job | None]]:
        before: int | None = None
        while True:
            page = await self.ledger.jobs(wanted, before=before, limit=READ_AT_ONCE)
            for job in page.jobs:
                yield job.id, job
            if page.next is None:
                return
            before = page.next


class _Zip(StreamingResponse):
    """Closes its stream when the client leaves, and does not wait for the garbage collector."""

    body_iterator: AsyncGenerator[bytes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.body_iterator):
            await super().__call__(scope, receive, send)


def by_day(jobs: Sequence[Job]) -> list[tuple[str, list[Job]]]:
    """Group jobs, which stay in their order, by the day on which they became known."""

    def day(job: Job) -> str:
        return presenters.moment(job.submitted_at or job.received_at or job.updated_at, "%Y-%m-%d")

    return [(name, list(found)) for name, found in groupby(jobs, day)]
