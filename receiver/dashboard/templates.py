"""Renders the templates, and serves the static files. Everything that a template prints is escaped."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from receiver.core import serializers
from receiver.core.jobs import State
from receiver.core.paths import WEBHOOK_PATH
from receiver.dashboard import presenters, throughput
from receiver.web.problem import problem

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent

PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

FOREVER = "private, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    media_type: str
    etag: str


class Static:
    """The static files, under names that change with their content, so that browsers cache them for good."""

    def __init__(self) -> None:
        self._files: dict[str, File] = {}
        self._names: dict[str, str] = {}
        for path in sorted((HERE / "static").iterdir()):
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:16]
            name = f"{path.stem}.{digest}{path.suffix}"
            self._names[path.name] = name
            self._files[name] = File(content, TYPES[path.suffix], f'"{digest}"')

    def url(self, name: str) -> str:
        """Return the path that a file is served at."""
        return f"/static/{self._names[name]}"

    def content(self, name: str) -> bytes:
        return self._files[self._names[name]].content

    async def answer(self, request: Request) -> Response:
        """``GET /static/{name}``: style, script and signs of the page."""
        file = self._files.get(request.path_params["name"])
        if file is None:
            return problem("body.no_such_route")
        headers = {"ETag": file.etag, "Cache-Control": FOREVER}
        if file.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)


class Templates:
    """Renders the pages; ``now`` returns ms since the epoch."""

    def __init__(self, static: Static, now: Callable[[], int]) -> None:
        self._static = static
        self._now = now

    def answer(
        self, name: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any
    ) -> Response:
        """Return a rendered page."""
        text = self._environment.get_template(f"{name}.html").render(now=self._now(), **values)
        return HTMLResponse(text, status, {**PAGE_HEADERS, **(headers or {})})

    @cached_property
    def _environment(self) -> "Environment":
        # Not at the start: many receivers never show a page, and the first one compiles its template anyway.
        from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415

        environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        environment.filters.update(
            moment=presenters.moment,
            clock=presenters.clock,
            span=presenters.span,
            size=presenters.size,
            iso=serializers.time,
            visible=presenters.visible,
            plain_url=serializers.plain_url,
            segment=lambda text: quote(text, safe=""),
            count=lambda number: f"{number:,}",
        )
        environment.globals.update(
            static=self._static.url,
            webhook_path=WEBHOOK_PATH,
            State=State,
            texts=presenters.TEXTS,
            sentence=presenters.sentence,
            detail=presenters.detail,
            can_retry=presenters.can_retry,
            is_web=serializers.is_web,
            field_time=presenters.field_time,
            STEP=throughput.STEP,
            HEIGHT=throughput.HEIGHT,
        )
        return environment
