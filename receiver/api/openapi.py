"""``GET /openapi.json``: describes every route for programs (OpenAPI 3.1).

The document is ``openapi.json`` beside this file. Three things in it are filled in here, so that no rule
stands in two places:

- the webhook, for each provider;

- a value such as ``"{states}"``: settings, and the limits, states and reasons of the code;
- ``x-reasons``, the reasons with which a route may refuse: they become its problem responses.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.api import params
from receiver.core.completion import BARE_ID, JOB_ID, MAX_SIDE, MAX_URL, PROVIDER, PROVIDER_ID, REF
from receiver.core.errors import REASONS
from receiver.core.jobs import FINAL, State
from receiver.core.paths import webhook_path
from receiver.ledger import NOTIFICATION_OUTCOMES, RECONCILED
from receiver.providers.base import Provider
from receiver.web.problem import STATUS, status_of

Json = dict[str, Any]

SOURCE = Path(__file__).with_suffix(".json")


def route(document: Json) -> Route:
    body = json.dumps(document, ensure_ascii=False).encode()

    async def openapi(request: Request) -> Response:
        params.nothing(request.query_params)
        return Response(body, media_type="application/json")

    return Route("/openapi.json", openapi, methods=["GET"])


def document(version: str, providers: Iterable[Provider]) -> Json:
    """Return the whole document, with a webhook for each of the providers."""
    providers = tuple(providers)
    names = [provider.name for provider in providers]
    values = {
        **_values_of_the_code(),
        "{version}": version,
        "{providers}": names,
        "{announced_id}": f"^(?:{'|'.join(_announced_ids(providers))})$",
    }

    found = _filled(SOURCE.read_text(encoding="utf-8"), values)
    schemas = found["components"]["schemas"]
    template = json.dumps(found["paths"].pop("{webhook_path}"))
    webhooks = {}
    for provider in providers:
        schemes = _webhook_schemes(provider)
        found["components"]["securitySchemes"] |= schemes
        name = "Completion" if provider.bare_ids else f"{provider.title}Completion"
        schemas[name] = dict(provider.body_schema)
        webhook = _filled(
            template,
            {
                "{webhook_id}": "deliver" if provider.bare_ids else f"deliver_{provider.name}",
                "{webhook_security}": [{name: [] for name in schemes}],
                "{webhook_schema}": _reference(name),
                "{ref_header}": provider.ref_header,
            },
        )
        if provider.ref_header is None:
            webhook["post"]["parameters"] = []
        webhooks[webhook_path(provider.name)] = webhook
    found["paths"] = webhooks | found["paths"]
    # Each schema forbids other members, so that ``allOf`` cannot extend it.
    schemas["JobWithHistory"] = _object(
        schemas["Job"]["properties"] | {"history": {"type": "array", "items": _reference("Event")}}
    )
    schemas["Transition"] = _object(
        {
            "seq": {"type": "integer", "minimum": 1},
            "id": _reference("JobId"),
            "ref": {"type": ["string", "null"]},
            **schemas["Event"]["properties"],
        }
    )
    for item in found["paths"].values():
        for operation in item.values():
            if "x-reasons" in operation:
                problems = _problems(operation.pop("x-reasons"))
                operation["responses"] = problems | operation["responses"]
    return found


def _announced_ids(providers: Iterable[Provider]) -> Iterator[str]:
    """Yield the forms in which a job can be announced without its provider beside it."""
    for provider in providers:
        own_id = BARE_ID if provider.bare_ids else PROVIDER_ID
        yield f"{provider.name}:{own_id}"
        if provider.bare_ids:
            yield own_id


def _filled(text: str, values: Json) -> Json:
    """Return the object of a JSON text, in which placeholders are members' values, with these filled in."""

    def fill(members: Json) -> Json:
        return {k: values.get(v, v) if isinstance(v, str) else v for k, v in members.items()}

    found: Json = json.loads(text, object_hook=fill)
    return found


def _values_of_the_code() -> Json:
    counts = {"type": "integer", "minimum": 0}
    return {
        "{states}": [state.value for state in State],
        "{reasons}": sorted(REASONS),
        "{statuses}": sorted({*STATUS.values(), 503}),
        "{job_id}": f"^(?:{JOB_ID})$",
        "{provider}": f"^{PROVIDER}$",
        "{own_id}": f"^{BARE_ID}$",
        "{ref}": f"^{REF}$",
        "{search}": f"^{params.SEARCH}$",
        "{event_id}": f"^[0-9]{{1,{params.MAX_LINE_DIGITS}}}$",
        "{max_limit}": params.MAX_LIMIT,
        "{default_limit}": params.DEFAULT_LIMIT,
        "{max_wait}": params.MAX_WAIT,
        "{max_url}": MAX_URL,
        "{max_side}": MAX_SIDE,
        "{unread_outcomes}": list(params.UNREAD_OUTCOMES),
        "{notification_types}": [f"job.{state}" for state in sorted(FINAL)],
        "{counts_by_state}": _object({state.value: counts for state in State}),
        "{counts_of_reconciling}": _object({name: _reference("Counted") for name in RECONCILED}),
        "{counts_of_notifications}": _object(dict.fromkeys(("pending", *NOTIFICATION_OUTCOMES), counts)),
    }


def _webhook_schemes(provider: Provider) -> Json:
    """Return a security scheme for each header that a delivery must carry."""
    prefix = "webhook" if provider.bare_ids else f"{provider.name}_webhook"
    return {
        f"{prefix}{number}": {
            "type": "apiKey",
            "in": "header",
            "name": name,
            "description": f"A part of the proof of a delivery by {provider.title}.",
        }
        for number, name in enumerate(provider.proof.names)
    }


def _problems(reasons: Iterable[str]) -> Json:
    """Return the problem responses for these reasons, and for a ledger that cannot be used."""
    by_status: dict[int, list[str]] = {}
    for reason in (*reasons, "ledger.unavailable"):
        by_status.setdefault(status_of(reason), []).append(reason)
    answers: Json = {
        str(status): {
            "description": " ".join(REASONS[reason] for reason in found),
            "content": {"application/problem+json": {"schema": _reference("Problem")}},
        }
        for status, found in sorted(by_status.items())
    }
    answers["503"]["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return answers


def _reference(schema: str) -> Json:
    return {"$ref": f"#/components/schemas/{schema}"}


def _object(properties: Mapping[str, Json]) -> Json:
    """Return the schema of an object that has exactly these members."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
