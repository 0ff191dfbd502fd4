"""The route of the results: the picture while its URL works, or the fault of the job's plan.

It answers like the S3 bucket in which this vendor's results were seen: XML errors, 403 for expired URLs, and
``binary/octet-stream`` whatever the picture's format.
"""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from receiver.sandbox.faults import Fault, ResultFault
from receiver.sandbox.jobs import Job
from receiver.sandbox.provider import Provider

_MEDIA_TYPE = "binary/octet-stream"

_XML_ERRORS: Mapping[Fault, tuple[int, str, str]] = {
    ResultFault.GONE: (403, "AccessDenied", "Request has expired"),
    ResultFault.MISSING: (404, "NoSuchKey", "The specified key does not exist."),
    ResultFault.BROKEN: (500, "InternalError", "We encountered an internal error. Please try again."),
    ResultFault.FLAKY: (503, "SlowDown", "Please reduce your request rate."),
}


class Results:
    """The route of the results. It takes no token, like the links of the vendor."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def get(self, request: Request) -> Response:
        """``GET /ximilar-tmp-images/{name}``."""
        link = self._provider.links.get(request.path_params["name"])
        if link is None or link.dead or link.expires <= self._provider.clock() or link.job.result is None:
            return _forbidden()
        job, path = link.job, link.job.result.path
        job.downloads += 1
        if (error := self._error(job)) is not None:
            return error
        try:
            size = (await anyio.Path(path).stat()).st_size
            if ResultFault.CUT in job.plan:
                half = (await anyio.Path(path).read_bytes())[: size // 2]
                return CutResponse(half, length=size, media_type=_MEDIA_TYPE)
        except FileNotFoundError:
            return _forbidden()
        if ResultFault.SLOW in job.plan:
            return _slow(path, size, self._provider.options.slow_rate)
        return FileResponse(path, media_type=_MEDIA_TYPE)

    def _error(self, job: Job) -> Response | None:
        """Return the answer that takes the picture's place; None if the picture is to be sent."""
        flaky = job.downloads <= self._provider.options.flaky_times
        for fault in job.plan & _XML_ERRORS.keys():
            if fault is not ResultFault.FLAKY or flaky:
                return _xml(*_XML_ERRORS[fault])
        if ResultFault.HTML in job.plan:
            return HTMLResponse("<!doctype html><title>Sign in</title><h1>Sign in to continue</h1>")
        return Response(media_type=_MEDIA_TYPE) if ResultFault.EMPTY in job.plan else None


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


def _slow(path: Path, size: int, rate: int) -> Response:
    async def drops() -> AsyncIterator[bytes]:
        async with await anyio.open_file(path, "rb") as file:
            while drop := await file.read(max(rate // 10, 1)):
                yield drop
                await anyio.sleep(len(drop) / rate)

    return StreamingResponse(drops(), media_type=_MEDIA_TYPE, headers={"content-length": str(size)})


def _forbidden() -> Response:
    return _xml(*_XML_ERRORS[ResultFault.GONE])


def _xml(status: int, code: str, message: str) -> Response:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Response(text, status, media_type="application/xml")
