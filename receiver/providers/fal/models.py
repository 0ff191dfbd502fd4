"""The paths of fal.ai's models. The queue knows a request only below the path of its model."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
_NAMESPACES = frozenset({"workflows", "comfy"})
"""First parts of a path before the model's owner."""

MAX_PATH = 200


def app_of(endpoint: str | None) -> str | None:
    """Return the part of a model's path that the queue's URLs have: its owner and name."""
    path = (endpoint or "").strip("/")
    if len(path) > MAX_PATH or not _PATH.fullmatch(path):
        return None
    parts = path.split("/")
    return "/".join(parts[: 3 if parts[0] in _NAMESPACES else 2])


def of_links(document: Mapping[str, Any]) -> str | None:
    """Return the model's path from the links of a body, of which only the path counts."""
    for name in ("response_url", "status_url"):
        link = document.get(name)
        try:
            path = urlsplit(link).path if isinstance(link, str) else ""
        except ValueError:
            continue
        model, found, _ = path.partition("/requests/")
        if found and (app := app_of(model)):
            return app
    return None
