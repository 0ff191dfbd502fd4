"""Standard Webhooks against cases that independent packages have judged: `vectors.json` names them."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from receiver.core.errors import AuthError
from receiver.providers.signatures import StandardWebhooks, key_of

CASES: list[dict[str, Any]] = [
    case
    for case in json.loads(Path(__file__).with_name("vectors.json").read_text(encoding="utf-8"))
    if case["provider"] != "fal"
]


def judged(case: dict[str, Any]) -> str:
    is_raw = case["provider"] == "freepik"
    key = case["secret"].encode() if is_raw else key_of(case["secret"])
    proof = StandardWebhooks([b"another key", key], lambda: case["now"] * 1000)
    headers = [(name.lower().encode(), value.encode()) for name, value in case["headers"].items()]
    try:
        proof.admit(headers)
        proof.check(headers, base64.b64decode(case["body_b64"]))
    except AuthError:
        return "refuse"
    return "accept"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['provider']}: {case['case']}")
def test_a_signature_is_judged_as_others_judge_it(case: dict[str, Any]) -> None:
    assert judged(case) == case["expect"]


@pytest.mark.parametrize(
    "stamp", ["", "-1", "1.5", "1e9", "9" * 400, "1780000301", "1779999699", "\u0661" * 10]
)
def test_a_time_that_is_none_or_is_far_is_refused(stamp: str) -> None:
    good = next(case for case in CASES if case["case"] == "plain")
    headers = {**good["headers"], "webhook-timestamp": stamp}
    assert judged(good) == "accept"
    assert judged({**good, "headers": headers}) == "refuse"


def test_a_repeated_header_proves_nothing() -> None:
    good = next(case for case in CASES if case["case"] == "plain")
    proof = StandardWebhooks([key_of(good["secret"])], lambda: good["now"] * 1000)
    headers = [(name.lower().encode(), value.encode()) for name, value in good["headers"].items()]
    with pytest.raises(AuthError):
        proof.admit([*headers, headers[-1]])


@pytest.mark.parametrize("secret", ["", "whsec_!!", "no base64"])
def test_a_secret_that_is_none_is_named_without_it(secret: str) -> None:
    with pytest.raises(ValueError, match="must be whsec_ and base64") as error:
        key_of(secret)
    assert not secret or secret not in str(error.value)
