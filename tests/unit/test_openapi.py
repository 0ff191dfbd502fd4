"""What /openapi.json names is what the routes take and give; its limits are taken from the code itself."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from starlette.datastructures import QueryParams
from starlette.routing import Route

from receiver.api import params
from receiver.api.openapi import document
from receiver.api.sse import GAP, TRANSITION
from receiver.bootstrap.app import open_receiver
from receiver.config import load
from receiver.core import serializers
from receiver.core.errors import REASONS, BodyError
from receiver.core.jobs import Event, Image, Job, Problem, State, StoredObject
from receiver.providers.ximilar.authentication import REF_HEADER, Authenticator
from receiver.providers.ximilar.provider import OWN_LIFETIME, XimilarProvider
from receiver.web.middleware import PUBLIC_PATHS
from receiver.web.problem import STATUS, problem
from tests.support.clock import NOW
from tests.support.providers import API

DOCUMENT = document(
    "1.0",
    [
        XimilarProvider(
            Authenticator({"X-Webhook-Secret": ["s"], "X-Other": ["o"]}, ["key"]), API, None, OWN_LIFETIME
        )
    ],
)

JOB = Job(
    id="job",
    state=State.ARCHIVED,
    ref="a ref",
    image=Image("png", 4, 4, 10, "0" * 64),
    stored=StoredObject("file:///x"),
    problem=Problem("fetch.timeout", "Slow.", NOW),
    received_at=NOW,
    updated_at=NOW,
)


def schema(name: str) -> Draft202012Validator:
    return Draft202012Validator({**DOCUMENT, "$ref": f"#/components/schemas/{name}"})


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield path, method.upper(), operation


async def test_every_route_is_described_and_no_other(tmp_path: Path) -> None:
    async with open_receiver(
        load({"RECEIVER_DATA_DIR": str(tmp_path), "RECEIVER_SIGNING_KEYS": "key"}), {}
    ) as receiver:
        served = {
            (route.path, method)
            for route in receiver.app.routes
            if isinstance(route, Route)
            for method in (route.methods or set()) - {"HEAD"}
            if not route.path.startswith("/webhooks/ximilar/")
        }
    # The receiver's own: a 405 for everybody else, as it would be without this route.
    served.remove(("/webhooks/ximilar", "GET"))
    assert {(path, method) for path, method, _ in operations()} == served


def test_the_routes_without_a_token_are_those_that_need_none() -> None:
    without = {path for path, _, operation in operations() if "security" in operation}
    assert without == {*PUBLIC_PATHS, "/webhooks/ximilar"}
    (webhook,) = DOCUMENT["paths"]["/webhooks/ximilar"]["post"]["security"]
    headers = [DOCUMENT["components"]["securitySchemes"][name]["name"] for name in webhook]
    assert headers == ["X-Webhook-Secret", "X-Other", "X-Receiver-Job"]


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("/jobs", lambda given: params.jobs(given, overdue_before=0)),
        ("/jobs/{id}", params.wait),
        ("/jobs/changes", lambda given: params.changes(given, ())),
        ("/deliveries", params.deliveries),
        ("/stats", params.nothing),
        ("/openapi.json", params.nothing),
    ],
)
def test_the_parameters_are_those_that_the_route_takes(path: str, read: Any) -> None:
    with pytest.raises(BodyError) as refusal:
        read(QueryParams({"surely-unknown": "1"}))
    takes = refusal.value.detail.partition("the route takes ")[2].rstrip(".").split(", ")
    parameters = map(resolved, DOCUMENT["paths"][path]["get"].get("parameters", []))
    described = sorted(parameter["name"] for parameter in parameters if parameter["in"] == "query")
    assert described == [name for name in takes if name != "no parameters"]


@pytest.mark.parametrize(
    "job", [JOB, Job("job", State.SUBMITTED), Job("job", State.FAILED, problem=JOB.problem)]
)
def test_a_job_is_what_the_schema_says(job: Job) -> None:
    schema("Job").validate(serializers.job(job))
    event = serializers.event(Event(NOW, "received", None, State.RECEIVED, None, None))
    schema("JobWithHistory").validate({**serializers.job(job), "history": [event]})
    schema("Notification").validate(
        {"type": "job.failed", "timestamp": serializers.time(NOW), "data": serializers.job(job)}
    )


def test_a_refusal_is_what_the_schema_says() -> None:
    for reason in REASONS:
        refusal = problem(reason)
        schema("Problem").validate(
            {
                "type": f"urn:upscale-receiver:{reason}",
                "title": "x",
                "status": refusal.status_code,
                "reason": reason,
                "detail": "x",
            }
        )


def test_the_names_of_events_are_those_that_are_sent() -> None:
    event = DOCUMENT["components"]["schemas"]["ServerSentEvent"]["properties"]["event"]
    assert set(event["enum"]) == {TRANSITION, GAP}


def test_every_answer_has_a_description_and_the_status_of_its_reasons() -> None:
    for path, _, operation in operations():
        for status, answer in operation["responses"].items():
            assert answer["description"], path
            if "application/problem+json" in answer.get("content", {}):
                assert int(status) in {*STATUS.values(), 503}


def test_every_schema_is_one_and_every_name_that_is_referred_to_exists() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for name in schemas:
        Draft202012Validator.check_schema(schemas[name])
    assert all(resolved({"$ref": reference}) for reference in references(DOCUMENT))  # else a KeyError


def test_no_value_is_left_to_be_filled_in() -> None:
    assert not re.findall(r'"\{\w+\}"|"x-reasons"', json.dumps(DOCUMENT))


def test_the_names_of_headers_are_those_of_the_code() -> None:
    named = {
        parameter["name"]
        for _, _, operation in operations()
        for parameter in map(resolved, operation.get("parameters", []))
        if parameter["in"] == "header"
    }
    assert named == {REF_HEADER, "If-None-Match", "Last-Event-ID"}


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """What a reference names; anything else as it is."""
    if "$ref" not in part:
        return part
    found = DOCUMENT
    for name in part["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for name, value in part.items():
            if name == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)
