"""``GET /openapi.json``: what every route takes and gives, for programs (OpenAPI 3.1).

Limits, states and reasons are those of the code that judges them. Names are held to the routes by tests, and
the whole to a running receiver by schemathesis.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.api import params
from receiver.core.completion import JOB_ID, MAX_SIDE, MAX_URL
from receiver.core.errors import REASONS
from receiver.core.jobs import FINAL, State
from receiver.core.references import REF
from receiver.intake.authentication import REF_HEADER, TICKET_HEADER
from receiver.ledger import NOTIFICATION_OUTCOMES, RECONCILED
from receiver.providers.ximilar.completions import FAILED_STATUSES
from receiver.web.challenge import CHALLENGE_HEADER, PROOF_HEADER
from receiver.web.problem import STATUS

Json = dict[str, Any]

TOKEN: list[Json] = [{"bearer": []}, {"basic": []}]
"""Either of them."""


def route(document: Json) -> Route:
    """The route that gives the document."""
    body = json.dumps(document, ensure_ascii=False).encode()

    async def openapi(request: Request) -> Response:
        params.nothing(request.query_params)
        return Response(body, media_type="application/json")

    return Route("/openapi.json", openapi, methods=["GET"])


def document(version: str, proof: Sequence[str], *, tickets: bool) -> Json:
    """The whole document.

    Args:
        version: of this program.
        proof: names of the headers that prove the webhook's sender.
        tickets: whether that takes a ticket, too.
    """
    headers = [*proof, *([TICKET_HEADER] if tickets else [])]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "upscale-receiver",
            "version": version,
            "summary": "The webhook target for Ximilar's Upscaler, and what can be asked of it.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": TOKEN,
        "paths": {
            **_webhook(headers),
            **_jobs(),
            **_job(),
            **_changes(),
            **_others(),
            **_health(),
            **_pages(),
        },
        "components": {"schemas": _schemas(), "securitySchemes": _security(headers)},
    }


# Routes


def _webhook(headers: Sequence[str]) -> Json:
    return {
        "/webhooks/ximilar": {
            "post": {
                "operationId": "deliver",
                "summary": "Takes a completion; answers 200 only when it is durably recorded.",
                "security": [{_scheme(number): [] for number in range(len(headers))}],
                "parameters": [
                    {
                        "name": REF_HEADER,
                        "in": "header",
                        "description": "The submitter's own reference: 1 to 200 printable ASCII characters."
                        " One that is not is dropped, and not the delivery.",
                        "schema": {"type": "string"},
                    }
                ],
                "requestBody": _body("Completion"),
                "responses": {
                    "200": _json("Recorded durably, or known already.", "Recorded") | _links(),
                    **_problems(
                        "auth.refused",
                        "body.not_json",
                        "body.cut_short",
                        "body.too_slow",
                        "body.too_large",
                        "body.unsupported_type",
                        "body.not_a_completion",
                    ),
                },
            }
        }
    }


def _jobs() -> Json:
    return {
        "/jobs": {
            "get": {
                "operationId": "listJobs",
                "summary": "A page of jobs, newest first.",
                "parameters": [
                    _states("Only jobs in one of these states."),
                    _parameter("ref", _ref(), "Only jobs with exactly this reference."),
                    _parameter("reason", _reason(), "Only jobs whose present reason this is."),
                    _parameter("since", _time(), "Only jobs that the receiver first heard of then or later."),
                    _parameter("until", _time(), "Only jobs that the receiver first heard of before."),
                    _parameter("overdue", {"type": "boolean"}, "True: only overdue jobs; false: all others."),
                    *_window(),
                ],
                "responses": {
                    "200": _json("The page.", "JobPage"),
                    **_problems("auth.token_refused", "body.invalid_query"),
                },
            },
            "post": {
                "operationId": "announceJob",
                "summary": "Announces a job that another program submitted, so that its silence is noticed.",
                "requestBody": _body("Announcement"),
                "responses": {
                    "201": _json("It was unknown.", "Job") | _links(),
                    "200": _json("It was known.", "Job") | _links(),
                    **_problems(
                        "auth.token_refused",
                        "auth.cross_origin",
                        "body.not_json",
                        "body.cut_short",
                        "body.too_large",
                        "body.invalid",
                    ),
                },
            },
        }
    }


def _job() -> Json:
    etag = {"ETag": {"description": "Of this very answer.", "schema": {"type": "string"}}}
    return {
        "/jobs/{id}": {
            "parameters": [_id()],
            "get": {
                "operationId": "getJob",
                "summary": "One job with its history.",
                "parameters": [
                    _parameter(
                        "wait",
                        _seconds(),
                        "Waits so long for the job's end; with If-None-Match, for another answer than that.",
                    ),
                    {
                        "name": "If-None-Match",
                        "in": "header",
                        "description": "ETags of answers that the client has: 304 where this is one of them.",
                        "schema": {"type": "string"},
                    },
                ],
                "responses": {
                    "200": {**_json("The job.", "JobWithHistory"), "headers": etag},
                    "304": {"description": "The client has it already.", "headers": etag},
                    **_problems("auth.token_refused", "ledger.unknown_job", "body.invalid_query"),
                },
            },
        },
        "/jobs/{id}/image": {
            "parameters": [_id()],
            "get": {
                "operationId": "getImage",
                "summary": "The archived image.",
                "responses": {
                    "200": {
                        "description": "Its bytes.",
                        "content": {f"image/{kind}": {} for kind in ("jpeg", "png", "webp")},
                    },
                    "302": {
                        "description": "It is in a bucket, and can be had from there for a while.",
                        "headers": {"Location": {"schema": {"type": "string", "format": "uri"}}},
                    },
                    **_problems(
                        "auth.token_refused",
                        "ledger.unknown_job",
                        "archive.missing",
                        "ledger.wrong_state",
                        "body.invalid_query",
                    ),
                },
            },
        },
        "/jobs/{id}/retry": {
            "parameters": [_id()],
            "post": {
                "operationId": "retryJob",
                "summary": "Tries the job again now.",
                "responses": {
                    "202": _json("It will be tried.", "Job"),
                    **_problems(
                        "auth.token_refused",
                        "auth.cross_origin",
                        "ledger.unknown_job",
                        "ledger.wrong_state",
                        "body.invalid_query",
                    ),
                },
            },
        },
    }


def _changes() -> Json:
    place = {"type": "string", "pattern": f"^[0-9]{{1,{params.MAX_LINE_DIGITS}}}$"}
    return {
        "/jobs/changes": {
            "get": {
                "operationId": "listen",
                "summary": "All transitions as server-sent events, as they happen.",
                "description": "Each event `transition` carries a `Transition` as its data, and its `seq` as"
                " its id. An event `gap` says that lines of the history which the client had not seen were"
                " removed since. Comments in between keep the connection, and tell the last id.",
                "parameters": [
                    _parameter("after", place, "The last id that the client knows; else it begins at now."),
                    {
                        "name": "Last-Event-ID",
                        "in": "header",
                        "description": "The same, as browsers say it when they come back; wins over `after`.",
                        "schema": place,
                    },
                    _parameter("wait", _seconds(), "Ends the stream after so long; else it does not end."),
                    _states("Only moves into one of these states."),
                    _parameter("ref", _ref(), "Only jobs with exactly this reference."),
                    _parameter("id", _job_id(), "Only this job."),
                ],
                "responses": {
                    "200": {
                        "description": "The stream.",
                        "content": {"text/event-stream": {"schema": _reference("ServerSentEvent")}},
                    },
                    **_problems("auth.token_refused", "body.invalid_query"),
                },
            }
        }
    }


def _others() -> Json:
    return {
        "/deliveries": {
            "get": {
                "operationId": "listDeliveries",
                "summary": "What came to the webhook and was no completion, newest first.",
                "parameters": [
                    _parameter(
                        "outcome",
                        {"type": "string", "enum": list(params.UNREAD_OUTCOMES)},
                        "Only those that are no completions for this reason.",
                    ),
                    *_window(),
                ],
                "responses": {
                    "200": _json("The page.", "DeliveryPage"),
                    **_problems("auth.token_refused", "body.invalid_query"),
                },
            }
        },
        "/stats": {
            "get": {
                "operationId": "getStats",
                "summary": "The ledger in numbers.",
                "responses": {
                    "200": _json("The numbers.", "Stats"),
                    **_problems("auth.token_refused", "body.invalid_query"),
                },
            }
        },
        "/metrics": {
            "get": {
                "operationId": "getMetrics",
                "summary": "What is counted, for Prometheus.",
                "responses": {
                    "200": {
                        "description": "In the format that `Accept` asks for.",
                        "content": {"text/plain": {}, "application/openmetrics-text": {}},
                    },
                    **_problems("auth.token_refused", "body.invalid_query"),
                },
            }
        },
        "/openapi.json": {
            "get": {
                "operationId": "getOpenApi",
                "summary": "This document.",
                "responses": {
                    "200": {
                        "description": "This document.",
                        "content": {"application/json": {"schema": {"type": "object"}}},
                    },
                    **_problems("auth.token_refused", "body.invalid_query"),
                },
            }
        },
    }


def _health() -> Json:
    return {
        "/healthz": {
            "get": {
                "operationId": "getHealth",
                "summary": "The process answers.",
                "security": [],
                "parameters": [
                    {
                        "name": CHALLENGE_HEADER,
                        "in": "header",
                        "description": "A question that only this installation can answer: `receiver doctor`"
                        " finds out so whether an address leads here.",
                        "schema": {"type": "string"},
                    }
                ],
                "responses": {
                    "200": {
                        **_json("It does.", "Health"),
                        "headers": {
                            PROOF_HEADER: {
                                "description": "The answer, where there was a question.",
                                "schema": {"type": "string"},
                            }
                        },
                    }
                },
            }
        },
        "/readyz": {
            "get": {
                "operationId": "getReadiness",
                "summary": "All is well, or what is not.",
                "security": [],
                "responses": {
                    "200": _json("All is well.", "Readiness"),
                    "503": _json("Each check that fails, and why.", "Readiness"),
                },
            }
        },
    }


def _pages() -> Json:
    """What is for eyes: its own refusals are pages too."""
    jobs = _jobs()["/jobs"]["get"]["parameters"]
    deliveries = _others()["/deliveries"]["get"]["parameters"]
    return {
        "/": {"get": _shown("showOverview", "The status page, with a table of jobs.", jobs, 422)},
        "/page/jobs/{id}": {
            "parameters": [_id()],
            "get": _shown("showJob", "One job for people, with its history.", [], 404, 422),
        },
        "/page/jobs/{id}/retry": {
            "parameters": [_id()],
            "post": {
                "operationId": "retryShownJob",
                "summary": "The button of a job's page: tries again now.",
                "responses": {
                    "303": {
                        "description": "Back to the job's page.",
                        "headers": {"Location": {"schema": {"type": "string"}}},
                    },
                    **_problems("auth.token_refused", "auth.cross_origin"),
                    **_refused_pages(404, 409, 422, 503),
                },
            },
        },
        "/page/jobs/{id}/thumbnail": {
            "parameters": [_id()],
            "get": {
                "operationId": "getThumbnail",
                "summary": "A small picture of the archived image, or a placeholder.",
                "responses": {
                    "200": {"description": "It.", "content": {"image/webp": {}, "image/svg+xml": {}}},
                    **_problems("auth.token_refused", "ledger.unknown_job", "body.invalid_query"),
                },
            },
        },
        "/page/deliveries": {
            "get": _shown("showDeliveries", "What could not be read, for people.", deliveries, 422)
        },
        "/static/{name}": {
            "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": {
                "operationId": "getStatic",
                "summary": "The pages' style, script and signs.",
                "responses": {
                    "200": {
                        "description": "The file.",
                        "content": {"text/css": {}, "text/javascript": {}, "image/svg+xml": {}},
                    },
                    "304": {"description": "The client has it already."},
                    **_problems("auth.token_refused", "body.no_such_route"),
                },
            },
        },
    }


def _shown(operation: str, summary: str, parameters: Sequence[Json], *refusals: int) -> Json:
    return {
        "operationId": operation,
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            "200": {"description": "The page.", "content": {"text/html": {}}},
            **_problems("auth.token_refused"),
            **_refused_pages(*refusals, 503),
        },
    }


def _refused_pages(*statuses: int) -> Json:
    return {
        str(status): {"description": "A page that says why not.", "content": {"text/html": {}}}
        for status in statuses
    }


# Parts of routes


def _scheme(number: int) -> str:
    return f"webhook{number}"


def _security(headers: Sequence[str]) -> Json:
    return {
        "bearer": {"type": "http", "scheme": "bearer", "description": "One of RECEIVER_API_TOKENS."},
        "basic": {
            "type": "http",
            "scheme": "basic",
            "description": "One of RECEIVER_API_TOKENS as the password, with any user name.",
        },
        **{
            _scheme(number): {
                "type": "apiKey",
                "in": "header",
                "name": name,
                "description": "A ticket that this installation signed."
                if name == TICKET_HEADER
                else "One of the values that RECEIVER_WEBHOOK_HEADERS accepts.",
            }
            for number, name in enumerate(headers)
        },
    }


def _parameter(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _states(description: str) -> Json:
    return {
        **_parameter(
            "state", {"type": "array", "items": _state()}, description + " May be given several times."
        ),
        "style": "form",
        "explode": True,
    }


def _window() -> list[Json]:
    limit = {"type": "integer", "minimum": 1, "maximum": params.MAX_LIMIT, "default": params.DEFAULT_LIMIT}
    return [
        _parameter("limit", limit, "At most so many."),
        _parameter("cursor", {"type": "string"}, "What the page before gave as `next`."),
    ]


def _id() -> Json:
    return {"name": "id", "in": "path", "required": True, "schema": _job_id()}


def _body(schema: str) -> Json:
    return {"required": True, "content": {"application/json": {"schema": _reference(schema)}}}


def _json(description: str, schema: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": _reference(schema)}}}


def _links() -> Json:
    """What can be asked of a job that an answer names."""
    job = {"id": "$response.body#/id"}
    operations = ("getJob", "getImage", "retryJob")
    return {"links": {name: {"operationId": name, "parameters": job} for name in operations}}


def _problems(*reasons: str) -> Json:
    """The refusals of a route: those that are the asker's, and that the ledger cannot be used."""
    by_status: dict[int, list[str]] = {}
    for reason in (*reasons, "ledger.unavailable"):
        by_status.setdefault(STATUS.get(reason, 503), []).append(reason)
    answers = {}
    for status, found in sorted(by_status.items()):
        answers[str(status)] = {
            "description": " ".join(REASONS[reason] for reason in found),
            "content": {"application/problem+json": {"schema": _reference("Problem")}},
        }
    retry = {"description": "Seconds.", "schema": {"type": "integer"}}
    answers["503"]["headers"] = {"Retry-After": retry}
    return answers


def _reference(schema: str) -> Json:
    return {"$ref": f"#/components/schemas/{schema}"}


# Values


def _or_null(schema: Json) -> Json:
    if "$ref" in schema or "enum" in schema:
        return {"oneOf": [schema, {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]}


def _time() -> Json:
    return {"type": "string", "format": "date-time"}


def _seconds() -> Json:
    return {"type": "number", "minimum": 0, "maximum": params.MAX_WAIT}


def _count(least: int = 0) -> Json:
    return {"type": "integer", "minimum": least}


def _state() -> Json:
    return {"type": "string", "enum": [state.value for state in State]}


def _reason() -> Json:
    return {"type": "string", "enum": sorted(REASONS)}


def _job_id() -> Json:
    return {"type": "string", "pattern": f"^{JOB_ID}$"}


def _ref() -> Json:
    return {"type": "string", "pattern": f"^{REF}$"}


def _object(properties: Mapping[str, Json]) -> Json:
    """An object that has exactly these members."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _schemas() -> Json:
    text = {"type": "string"}
    side = _count(1)
    job = {
        "id": _job_id(),
        "state": _state(),
        "ref": _or_null(text),
        "attempts": _count(),
        "next_attempt_at": _or_null(_time()),
        "url_expires_at": _or_null(_time()),
        "image_url": _or_null(text),
        "source_url": _or_null(text),
        "endpoint": _or_null(text),
        "promised": _object({"width": _or_null(side), "height": _or_null(side)}),
        "image": _or_null(
            _object(
                {
                    "format": {"type": "string", "enum": ["jpeg", "png", "webp"]},
                    "width": side,
                    "height": side,
                    "bytes": side,
                    "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                }
            )
        ),
        "archive": _or_null(_object({"uri": text, "etag": _or_null(text), "version": _or_null(text)})),
        "error": _or_null(_object({"reason": _reason(), "detail": text, "at": _time()})),
        "submitted_at": _or_null(_time()),
        "received_at": _or_null(_time()),
        "fetched_at": _or_null(_time()),
        "archived_at": _or_null(_time()),
        "updated_at": _time(),
    }
    event = {
        "at": _time(),
        "event": {**text, "description": "What happened, in a word; further words may come."},
        "from": _or_null(_state()),
        "to": _state(),
        "reason": _or_null(_reason()),
        "detail": _or_null(text),
    }
    return {
        "Job": _object(job),
        "JobWithHistory": _object({**job, "history": {"type": "array", "items": _reference("Event")}}),
        "Event": _object(event),
        "Transition": _object({"seq": _count(1), "id": _job_id(), "ref": _or_null(text), **event}),
        "ServerSentEvent": {
            "type": "object",
            "properties": {
                "id": {"type": "string", "pattern": "^[0-9]+$"},
                "event": {"type": "string", "enum": ["transition", "gap"]},
                "data": {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": {"anyOf": [_reference("Transition"), _reference("Gap")]},
                },
            },
        },
        "Gap": _object({"after": _count(), "until": _count(1)}),
        "JobPage": _page_of("jobs", "Job"),
        "Announcement": {
            "type": "object",
            "properties": {"id": _job_id(), "ref": _or_null(_ref())},
            "required": ["id"],
            "additionalProperties": False,
        },
        "Completion": _completion(),
        "Recorded": _object({"id": _job_id(), "state": _state(), "duplicate": {"type": "boolean"}}),
        "Delivery": {
            "type": "object",
            "properties": {
                "id": _count(1),
                "at": _time(),
                "outcome": {"type": "string", "enum": list(params.UNREAD_OUTCOMES)},
                "detail": text,
                "body": {**text, "description": "The raw body, where it is UTF-8."},
                "body_base64": {"type": "string", "contentEncoding": "base64"},
            },
            "required": ["id", "at", "outcome", "detail"],
            "oneOf": [{"required": ["body"]}, {"required": ["body_base64"]}],
            "additionalProperties": False,
        },
        "DeliveryPage": _page_of("deliveries", "Delivery"),
        "Stats": _stats(),
        "Notification": _notification(),
        "Health": _object({"status": {"const": "ok"}}),
        "Readiness": _object(
            {
                "status": {"type": "string", "enum": ["ok", "failing"]},
                "failing": {"type": "object", "additionalProperties": text},
            }
        ),
        "Problem": _object(
            {
                "type": {"type": "string", "pattern": "^urn:upscale-receiver:"},
                "title": text,
                "status": {"type": "integer", "enum": sorted({*STATUS.values(), 503})},
                "reason": _reason(),
                "detail": text,
            }
        ),
    }


def _page_of(name: str, schema: str) -> Json:
    rows = {"type": "array", "maxItems": params.MAX_LIMIT, "items": _reference(schema)}
    return _object({name: rows, "next": _or_null({"type": "string"})})


def _stats() -> Json:
    return _object(
        {
            "states": _object({state.value: _count() for state in State}),
            "oldest_waiting_seconds": _or_null({"type": "number", "minimum": 0}),
            "soonest_deadline": _or_null(_time()),
            "overdue": _count(),
            "at_risk": _count(),
            "bytes_archived": _count(),
            "spool_bytes": _count(),
            "damaged": _counted(),
            "unread_deliveries": _count(),
            "refusals": _by_reason(),
            "reconcile": _object({name: _counted() for name in RECONCILED}),
            "notifications": _object({name: _count() for name in ("pending", *NOTIFICATION_OUTCOMES)}),
        }
    )


def _counted() -> Json:
    return _object({"total": _count(), "reasons": _by_reason()})


def _by_reason() -> Json:
    return {"type": "object", "additionalProperties": _count(1), "propertyNames": _reason()}


def _notification() -> Json:
    """What RECEIVER_NOTIFY_URL is sent, by the Standard Webhooks."""
    return _object(
        {
            "type": {"type": "string", "enum": [f"job.{state}" for state in sorted(FINAL)]},
            "timestamp": _time(),
            "data": _reference("Job"),
        }
    )


def _completion() -> Json:
    """What the provider sends: of all its members, those that are read."""
    side = {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_SIDE}
    record = {
        "type": "object",
        "properties": {
            "_upscaled_image_url": {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_URL,
                "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$",
            },
            "_upscaled_width": side,
            "_upscaled_height": side,
            "_status": {"description": "Of the record; without a code, or with 200, all is well with it."},
        },
        "required": ["_upscaled_image_url"],
    }
    failed_code = {"not": {"enum": [200, "200", None]}}
    failed_status = {"type": "object", "properties": {"code": failed_code}, "required": ["code"]}
    failed_record = {"type": "object", "properties": {"_status": failed_status}, "required": ["_status"]}
    records = {"type": "array", "minItems": 1, "maxItems": 1, "items": {"anyOf": [record, failed_record]}}
    response = {"type": "object", "properties": {"records": records}, "required": ["records"]}
    common = {"id": _job_id(), "type": {"const": "upscaler"}}
    return {
        "anyOf": [
            {
                "type": "object",
                "title": "The image can be had.",
                "properties": {**common, "status": {"const": "DONE"}, "response": response},
                "required": ["id", "status", "response"],
            },
            {
                "type": "object",
                "title": "The job failed.",
                "properties": {**common, "status": {"enum": sorted(FAILED_STATUSES)}},
                "required": ["id", "status"],
            },
        ]
    }
