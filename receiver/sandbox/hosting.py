"""The results' URLs: the picture while its URL works, or the fault of the job's plan.

Errors look like those of the S3 bucket in which Ximilar's results were seen.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from receiver.sandbox.faults import Fault, ResultFault
from receiver.sandbox.jobs import Clock, Job, Output
from receiver.sandbox.options import Options

_XML_ERRORS: Mapping[Fault, tuple[int, str, str]] = {
    ResultFault.MISSING: (404, "NoSuchKey", "The specified key does not exist."),
    ResultFault.BROKEN: (500, "InternalError", "We encountered an internal error. Please try again."),
    ResultFault.FLAKY: (503, "SlowDown", "Please reduce your request rate."),
}
MEDIA_TYPES = {".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp", ".mp4": "video/mp4"}


@dataclass(frozen=True, slots=True)
class Hosting:
    """How a provider gives out its results.

    Attributes:
        folder: the path of their URLs.
        lifetime: seconds for which a URL works.
        removed: whether the file itself is removed then: 404, and no longer a URL that has expired: 403.
        media_type: of all files; ``None``: each has its own.
        query: what a URL has behind its name, by that name and its end in seconds since the epoch.
        refusal: answers a request that must not have the file; ``None`` admits it.
    """

    folder: str
    lifetime: float
    removed: bool = False
    media_type: str | None = None
    query: Callable[[str, float], str] = lambda _name, _expires: ""
    refusal: Callable[[Request], Response | None] = lambda _request: None


@dataclass(frozen=True, slots=True)
class Link:
    """One URL of a result, which ends at ``expires``, seconds since the epoch; a dead one never worked."""

    job: Job[Any]
    path: Path
    expires: float
    dead: bool = False


class Results:
    """All results by the names in their URLs, oldest first; all live equally long."""

    def __init__(self, hosting: Hosting, options: Options, clock: Clock) -> None:
        self._hosting = hosting
        self._options = options
        self._clock = clock
        self._links: OrderedDict[str, Link] = OrderedDict()
        self.lifetime = hosting.lifetime if options.url_lifetime is None else options.url_lifetime

    def route(self) -> Route:
        return Route(self._hosting.folder + "/{name}", self.get)

    def publish(self, job: Job[Any], output: Output, *, dead: bool = False) -> str:
        path = output.file.path
        name, expires = f"{uuid4()}{path.suffix}", self._clock() + self.lifetime
        self._links[name] = Link(job, path, expires, dead)
        return f"{job.base_url}{self._hosting.folder}/{name}{self._hosting.query(name, expires)}"

    def expired(self, url: str) -> bool:
        link = self._links.get(url.partition("?")[0].rpartition("/")[2])
        return link is None or link.expires <= self._clock()

    def sweep(self, known: Mapping[str, Job[Any]]) -> Sequence[Path]:
        """Forget the oldest URLs that have expired, or whose jobs are known no more. Return their files."""
        swept = []
        while self._links:
            link = next(iter(self._links.values()))
            if link.expires > self._clock() and link.job.id in known:
                break
            self._links.popitem(last=False)
            swept.append(link.path)
        return swept

    async def get(self, request: Request) -> Response:
        if (refusal := self._hosting.refusal(request)) is not None:
            return refusal
        link = self._links.get(request.path_params["name"])
        if link is None or link.dead or link.expires <= self._clock():
            return self._gone()
        job, path = link.job, link.path
        job.downloads += 1
        if (error := self._error(job, path)) is not None:
            return error
        media_type = self._media_type(path)
        try:
            size = (await anyio.Path(path).stat()).st_size
            if ResultFault.CUT in job.plan:
                half = (await anyio.Path(path).read_bytes())[: size // 2]
                return CutResponse(half, length=size, media_type=media_type)
        except FileNotFoundError:
            return self._gone()
        if ResultFault.SLOW in job.plan:
            return _slow(path, size, self._options.slow_rate, media_type)
        return FileResponse(path, media_type=media_type)

    def _media_type(self, path: Path) -> str:
        return self._hosting.media_type or MEDIA_TYPES[path.suffix]

    def _gone(self) -> Response:
        if self._hosting.removed:
            return _xml(*_XML_ERRORS[ResultFault.MISSING])
        return _xml(403, "AccessDenied", "Request has expired")

    def _error(self, job: Job[Any], path: Path) -> Response | None:
        """Return the answer that takes the picture's place; None if the picture is to be sent."""
        if ResultFault.GONE in job.plan:
            return self._gone()
        flaky = job.downloads <= self._options.flaky_times
        for fault in job.plan & _XML_ERRORS.keys():
            if fault is not ResultFault.FLAKY or flaky:
                return _xml(*_XML_ERRORS[fault])
        if ResultFault.HTML in job.plan:
            return HTMLResponse("<!doctype html><title>Sign in</title><h1>Sign in to continue</h1>")
        return Response(media_type=self._media_type(path)) if ResultFault.EMPTY in job.plan else None


class CutResponse(Response):
    """Promises ``length`` bytes and sends fewer; the server then closes the connection."""

    def __init__(self, content: bytes, *, length: int, **options: Any) -> None:
        super().__init__(content, **options)
        self.headers["content-length"] = str(length)

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Leave the response unfinished: ASGI has no other way to send less than Content-Length."""
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await send(start)
        await send({"type": "http.response.body", "body": self.body, "more_body": True})


def _slow(path: Path, size: int, rate: int, media_type: str) -> Response:
    async def drops() -> AsyncIterator[bytes]:
        async with await anyio.open_file(path, "rb") as file:
            while drop := await file.read(max(rate // 10, 1)):
                yield drop
                await anyio.sleep(len(drop) / rate)

    return StreamingResponse(drops(), media_type=media_type, headers={"content-length": str(size)})


def _xml(status: int, code: str, message: str) -> Response:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Response(text, status, media_type="application/xml")
