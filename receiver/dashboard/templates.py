"""Renders the templates, and serves the static files. Everything that a template prints is escaped."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from receiver.core import serializers
from receiver.core.clock import Clock
from receiver.core.jobs import State
from receiver.core.paths import webhook_path
from receiver.dashboard import charts, presenters
from receiver.ledger.commands.retries import obstacle
from receiver.web.problem import problem

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent

PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cache-Control": "no-store",
}

TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}

PLACEHOLDER = (HERE / "static" / "nothing.svg").read_bytes()


class Static:
    """The static files, under names that change with their content, so that browsers cache them for good."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._answers: dict[str, Response] = {}
        for path in sorted((HERE / "static").iterdir()):
            content = path.read_bytes()
            name = f"{path.stem}.{hashlib.sha256(content).hexdigest()[:16]}{path.suffix}"
            self._names[path.name] = name
            self._answers[name] = Response(content, headers=FOREVER, media_type=TYPES[path.suffix])

    def url(self, name: str) -> str:
        return f"/static/{self._names[name]}"

    async def answer(self, request: Request) -> Response:
        """``GET /static/{name}``: style, script and signs of the page."""
        return self._answers.get(request.path_params["name"]) or problem("body.no_such_route")


@dataclass(eq=False)
class Templates:
    """Renders the pages.

    Attributes:
        failing: returns the readiness checks that fail, which each page shows.
        titles: of the providers, by name.
        instance: the receiver's name.
    """

    static: Static
    now: Clock
    failing: Callable[[], Awaitable[Mapping[str, str]]]
    titles: Mapping[str, str]
    instance: str

    async def answer(
        self,
        name: str,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        failing: Mapping[str, str] | None = None,
        **values: Any,
    ) -> Response:
        if failing is None:
            failing = await self.failing()
        text = self.render(name, now=self.now(), instance=self.instance, failing=failing, **values)
        return HTMLResponse(text, status, {**PAGE_HEADERS, **(headers or {})})

    def render(self, name: str, **values: Any) -> str:
        """Return a rendered template, such as a part of a page."""
        return self._environment.get_template(f"{name}.html").render(**values)

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
            clock=lambda at: presenters.moment(at, "%H:%M"),
            span=presenters.span,
            took=presenters.took,
            size=presenters.size,
            iso=serializers.time,
            visible=presenters.visible,
            plain_url=serializers.plain_url,
            segment=lambda text: quote(text, safe=""),
            count=lambda number: f"{number:,}",
        )
        environment.globals.update(
            static=self.static.url,
            webhook_paths=[webhook_path(name) for name in self.titles],
            titles=self.titles,
            State=State,
            texts=presenters.TEXTS,
            sentence=presenters.sentence,
            words=presenters.words,
            detail=presenters.detail,
            obstacle=obstacle,
            is_web=serializers.is_web,
            field_time=lambda at: presenters.moment(at, "%Y-%m-%dT%H:%M:%S"),
            STEP=charts.STEP,
            HEIGHT=charts.HEIGHT,
        )
        return environment
