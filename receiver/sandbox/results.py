"""The route of results: the picture until its URL expires, or the fault of the job's plan.

It answers like the S3 bucket in which the vendor's results were seen: XML errors, 403 for expired URLs, and
``binary/octet-stream`` for every format.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from receiver.sandbox.faults import ResultFault
from receiver.sandbox.jobs import Job
from receiver.sandbox.provider import Provider

_MEDIA_TYPE = "binary/octet-stream"
_CHUNK = 64 * 1024


class Results:
    """The route of results. Like the vendor's, it needs no token."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def get(self, request: Request) -> Response:
        """Return a result: ``GET /ximilar-tmp-images/{name}``."""
        link = self._provider.jobs.linked(request.path_params["name"])
        if link is None or link.dead or link.expires <= self._provider.clock() or link.job.result is None:
            return _forbidden()
        job, path = link.job, link.job.result.path
        job.downloads += 1
        if (fault := self._fault(job)) is not None:
            return fault
        try:
            size = (await anyio.Path(path).stat()).st_size
        except FileNotFoundError:
            return _forbidden()
        match job.plan.result:
            case ResultFault.CUT:
                return CutShort(path, size)
            case ResultFault.SLOW:
                return _slow(path, size, self._provider.options.slow_rate)
        return FileResponse(path, media_type=_MEDIA_TYPE)

    def _fault(self, job: Job) -> Response | None:
        """Return the answer of a fault that does not need the picture; ``None`` to send it."""
        match job.plan.result:
            case ResultFault.GONE:
                return _forbidden()
            case ResultFault.MISSING:
                return _error(404, "NoSuchKey", "The specified key does not exist.")
            case ResultFault.BROKEN:
                return _error(500, "InternalError", "We encountered an internal error. Please try again.")
            case ResultFault.FLAKY if job.downloads <= self._provider.options.flaky_times:
                return _error(503, "SlowDown", "Please reduce your request rate.")
            case ResultFault.HTML:
                return HTMLResponse("<!doctype html><title>Sign in</title><h1>Sign in to continue</h1>")
            case ResultFault.EMPTY:
                return Response(media_type=_MEDIA_TYPE)
        return None


class CutShort(Response):
    """Half of a file, with the Content-Length of all; the server then closes the connection."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(media_type=_MEDIA_TYPE)
        self.headers["content-length"] = str(size)
        self._path = path
        self._left = size // 2

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Leave the response unfinished, which is ASGI's only way to send less than Content-Length."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with await anyio.open_file(self._path, "rb") as file:
            while self._left > 0:
                chunk = await file.read(min(self._left, _CHUNK))
                self._left -= len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})


def _slow(path: Path, size: int, rate: int) -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        async with await anyio.open_file(path, "rb") as file:
            while chunk := await file.read(max(rate // 10, 1)):
                yield chunk
                await anyio.sleep(len(chunk) / rate)

    return StreamingResponse(chunks(), media_type=_MEDIA_TYPE, headers={"content-length": str(size)})


def _forbidden() -> Response:
    return _error(403, "AccessDenied", "Request has expired")


def _error(status: int, code: str, message: str) -> Response:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Response(text, status, media_type="application/xml")
