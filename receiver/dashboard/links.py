"""The links between the pages of a list, which keep its filters in the address."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from receiver.api import params


def filled(given: QueryParams) -> QueryParams:
    """Return the parameters with a value: a form sends its empty fields too."""
    return QueryParams([(name, value) for name, value in given.multi_items() if value])


def links(
    path: str, api_path: str, given: QueryParams, window: params.Window, next_position: int | None
) -> dict[str, Any]:
    """Return the links of a page of rows: to the first page, the next one, and the same rows as JSON."""
    filters = [(name, value) for name, value in given.multi_items() if name != "cursor"]
    following = [*filters, ("cursor", params.cursor(next_position))]
    return {
        "first": _link(path, filters) if window.before is not None else None,
        "next": _link(path, following) if next_position else None,
        "json": _link(api_path, given.multi_items()),
    }


def _link(path: str, parameters: Sequence[tuple[str, Any]]) -> str:
    return f"{path}?{urlencode(parameters)}" if parameters else path
