"""What counts as a completion: the documented answers word for word, and everything that is none."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.core.completion import Completion, Failure, is_job_id
from receiver.core.errors import BodyError
from receiver.providers.bodies import decode_json
from receiver.providers.ximilar import completions
from receiver.providers.ximilar.completions import FAILED_STATUSES
from tests.support.providers import completion_of

WEBHOOK_BODY = """{
  "status": "DONE",
  "id": "__ASYNC_REQUEST_ID__",
  "type": "upscaler",
  "response": {
    "records": [
      {
        "_id": "__RECORD_ID__",
        "_url": "__ORIGINAL_URL_PATH__",
        "_width": WIDTH,
        "_height": HEIGHT,
        "_status": {
          "code": 200,
          "text": "OK",
          "request_id": "__REQUEST_ID__"
        },
        "_upscaled_width": UPSCALED_WIDTH,
        "_upscaled_height": UPSCALED_HEIGHT,
        "_upscaled_image_url": "__UPSCALED_URL_PATH__"
      }
    ]
  }
}"""
"""The provider's page, "Webhook Configuration". Its placeholders for numbers are no JSON."""

GET_ANSWER = """{
  "id": "d13389bf-6762-4439-87c6-eb4d02a08bc1",
  "created": "2025-04-12T11:55:23.619492Z",
  "modified": "2025-04-12T11:55:32.717459Z",
  "request": {
    "type": "upscaler",
    "records": [
      {
        "_url": "__PATH_TO_IMAGE_URL__"
      }
    ],
    "webhook": {
      "endpoint": "__YOUR_POST_URL__",
      "headers": { "optional_field": "optional_value" }
    },
    "endpoint": "upscale_2x",
    "model_type": "gan"
  },
  "response": {
    "records": [
      {
        "_url": "__PATH_TO_IMAGE_URL__",
        "_width": 212,
        "_height": 174,
        "_status": {
          "code": 200,
          "text": "OK",
          "request_id": "d15389bf-6762-4439-87c6-eb4d02a08bc1"
        },
        "_upscaled_width": 424,
        "_upscaled_height": 348,
        "_upscaled_image_url": "__URL_PATH_UPSCALED__"
      }
    ]
  },
  "type": "upscaler",
  "status": "DONE",
  "workspace": "__WORKSPACE_ID__"
}"""
"""The provider's page, "Getting Results"."""

SUBMIT_ANSWER = """{
  "id": "d13389bf-6762-4439-87c6-eb4d02a08bc1",
  "request": {
    "type": "upscaler",
    "model_type": "gan",
    "endpoint": "upscale_2x",
    "records": [
      {
        "_url": "__PATH_TO_IMAGE_URL__"
      }
    ],
    "webhook": {
      "endpoint": "__YOUR_POST_URL__",
      "headers": { "optional_field": "optional_value" }
    }
  },
  "type": "upscaler",
  "status": "CREATED",
  "created": "2025-04-12T11:55:23.619492Z",
  "workspace": "__WORKSPACE_ID__"
}"""
"""The provider's page, "Upscaling Request"."""

JOB = "d13389bf-6762-4439-87c6-eb4d02a08bc1"
URL = "https://host/image.png"


def done(**changes: Any) -> dict[str, Any]:
    """A small good completion, with changes to its one record; ``...`` removes a member."""
    record = {
        "_url": "https://host/in.png",
        "_status": {"code": 200, "text": "OK"},
        "_upscaled_width": 424,
        "_upscaled_height": 348,
        "_upscaled_image_url": URL,
        **changes,
    }
    record = {name: value for name, value in record.items() if value is not ...}
    return {"id": "job-1", "status": "DONE", "type": "upscaler", "response": {"records": [record]}}


def parse(body: bytes) -> Completion:
    return completion_of(completions.read(decode_json(body)))


def read(document: Any) -> Completion:
    return completion_of(completions.read(document))


def refusal(document: Any) -> str:
    with pytest.raises(BodyError) as caught:
        parse(json.dumps(document).encode())
    assert caught.value.reason == "body.not_a_completion"
    return caught.value.detail


def completion_or_reason(body: bytes) -> Completion | str:
    try:
        return parse(body)
    except BodyError as error:
        refused = error
    assert refused.reason in ("body.not_json", "body.not_a_completion")
    assert refused.detail.isprintable()
    assert len(refused.detail) < 400
    return refused.reason


def test_the_pages_webhook_body_is_a_completion() -> None:
    body = WEBHOOK_BODY
    for name, number in (
        ("UPSCALED_WIDTH", "424"),
        ("UPSCALED_HEIGHT", "348"),
        ("WIDTH", "212"),
        ("HEIGHT", "174"),
    ):
        body = body.replace(name, number)
    assert parse(body.encode()) == Completion(
        "__ASYNC_REQUEST_ID__", "__UPSCALED_URL_PATH__", "__ORIGINAL_URL_PATH__", 424, 348
    )


def test_the_pages_webhook_body_with_its_placeholders_is_no_json() -> None:
    assert completion_or_reason(WEBHOOK_BODY.encode()) == "body.not_json"


def test_the_pages_answer_to_a_get_is_a_completion_and_its_id_is_not_the_records_request_id() -> None:
    assert parse(GET_ANSWER.encode()) == Completion(
        JOB, "__URL_PATH_UPSCALED__", "__PATH_TO_IMAGE_URL__", 424, 348
    )


def test_the_pages_answer_to_a_submission_is_no_completion_yet() -> None:
    assert "CREATED" in refusal(json.loads(SUBMIT_ANSWER))


def test_what_a_completion_does_not_need_may_be_missing_or_unknown() -> None:
    document = {**done(_url=..., _status=..., _upscaled_width=..., _upscaled_height=...), "new": [1]}
    del document["type"]
    assert read(document) == Completion("job-1", URL)


@pytest.mark.parametrize("status", sorted(FAILED_STATUSES))
def test_a_job_that_failed_is_a_completion_with_the_providers_words(status: str) -> None:
    expected = Completion("job-1", None, failure=Failure("provider.job_failed", status))
    assert read({"id": "job-1", "status": status}) == expected
    with_words = {**done(_status={"code": 503, "text": "no GPU"}), "status": status}
    said = read(with_words)
    assert said.failure == Failure("provider.job_failed", f"{status}: 503 no GPU")
    assert said.image_url is None


@pytest.mark.parametrize("code", [400, 404, 500, 0, -1, 201, "400", "OK", True, 200.5])
def test_one_failed_record_is_a_failure_although_the_job_is_done(code: object) -> None:
    said = read(done(_status={"code": code, "text": "bad image"}))
    assert said.image_url is None
    assert said.failure is not None
    assert said.failure.reason == "provider.record_failed"
    assert "bad image" in said.failure.detail
    assert said.source_url == "https://host/in.png"


@pytest.mark.parametrize(
    "status", [None, "OK", 500, [], {"text": "OK"}, {"code": None}, {"code": 200.0}, {"code": "200"}]
)
def test_a_record_without_a_code_or_with_200_in_any_form_is_believed_for_its_image(status: object) -> None:
    assert read(done(_status=status)).image_url == URL


def test_a_failures_words_are_one_short_printable_line() -> None:
    said = read(done(_status={"code": 500, "text": "a\nb\x00\ud800" + "x" * 1000}))
    assert said.failure is not None
    assert said.failure.detail.isprintable()
    assert len(said.failure.detail) == 200
    assert said.failure.detail.startswith("500 a b x")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "no JSON object"),
        ("DONE", "no JSON object"),
        (None, "no JSON object"),
        ({}, "id"),
        ({**done(), "id": None}, "id"),
        ({**done(), "id": 7}, "id"),
        ({**done(), "id": ""}, "id"),
        ({**done(), "id": "a/b"}, "id"),
        ({**done(), "id": "../x"}, "id"),
        ({**done(), "id": "a\n"}, "id"),
        ({**done(), "id": "x" * 129}, "id"),
        ({**done(), "id": "\ud800"}, "id"),
        ({**done(), "type": "tagging"}, "type"),
        ({**done(), "type": None}, "type"),
        ({**done(), "status": None}, "status is missing"),
        ({**done(), "status": 200}, "status is missing"),
        ({**done(), "status": "PROCESSING"}, "PROCESSING, which is no end"),
        ({**done(), "status": "RETRY"}, "RETRY, which is no end"),
        ({**done(), "status": "ERROR"}, "ERROR, which is no end"),
        ({**done(), "status": "done"}, "done, which is no end"),
        ({**done(), "response": None}, "exactly one record"),
        ({**done(), "response": []}, "exactly one record"),
        ({**done(), "response": {"records": []}}, "exactly one record"),
        ({**done(), "response": {"records": [1]}}, "exactly one record"),
        ({**done(), "response": {"records": {"0": {}}}}, "exactly one record"),
        ({**done(), "response": {"records": done()["response"]["records"] * 2}}, "exactly one record"),
        (done(_upscaled_image_url=...), "no _upscaled_image_url"),
        (done(_upscaled_image_url=None), "no _upscaled_image_url"),
        (done(_upscaled_image_url=""), "_upscaled_image_url is no URL"),
        (done(_upscaled_image_url=[URL]), "_upscaled_image_url is no URL"),
        (done(_upscaled_image_url=URL + "\n"), "_upscaled_image_url is no URL"),
        (done(_upscaled_image_url=URL + "\ud800"), "_upscaled_image_url is no URL"),
        (done(_upscaled_image_url="x" * 8193), "_upscaled_image_url is no URL"),
        (done(_upscaled_width=0), "_upscaled_width"),
        (done(_upscaled_width=-1), "_upscaled_width"),
        (done(_upscaled_width="424"), "_upscaled_width"),
        (done(_upscaled_width=True), "_upscaled_width"),
        (done(_upscaled_width=424.5), "_upscaled_width"),
        (done(_upscaled_width=1e300), "_upscaled_width"),
        (done(_upscaled_height=2**31), "_upscaled_height"),
        (done(_upscaled_height=10**4000), "_upscaled_height"),
        (done(_upscaled_height=[]), "_upscaled_height"),
    ],
)
def test_what_is_no_completion_is_refused_with_what_is_amiss(document: Any, said: str) -> None:
    assert said in refusal(document)


def test_blanks_and_umlauts_in_an_image_url_are_read_as_browsers_read_them() -> None:
    for raw, url in {
        f" {URL}  ": URL,
        "https://host/Bücher/a b.png?q=ü\xa0c": "https://host/B%C3%BCcher/a%20b.png?q=%C3%BC%C2%A0c",
        "https://hôst/a": "https://hôst/a",  # for the guard to judge
    }.items():
        assert read(done(_upscaled_image_url=raw)).image_url == url
    for raw in (" ", "https://host/ü\n", "https://host/a\x85b", "https://host/" + "ü" * 1500):
        assert "no URL" in refusal(done(_upscaled_image_url=raw))


def test_a_strange_source_is_dropped_and_not_the_image() -> None:
    for source in (7, "", "a\nb", "x" * 9000, ["https://host/"]):
        assert read(done(_url=source)) == Completion("job-1", URL, None, 424, 348)


def test_a_side_may_be_a_whole_float() -> None:
    assert read(done(_upscaled_width=424.0)).width == 424


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"{",
        b"{'id': 1}",
        b"id=job-1",
        b"\x00",
        b"\xff\xfe\xff",
        b'{"id": "\xff"}',
        b"[" * 200_000,
        b'{"id":' * 50_000,
        b'{"n": ' + b"9" * 5000 + b"}",
        b'{"id": "job-1"} trailing',
        '{"id": "job-1"}'.encode("utf-16")[:-1],
    ],
)
def test_what_is_no_json_is_refused_as_such(body: bytes) -> None:
    assert completion_or_reason(body) == "body.not_json"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_is_read_in_any_encoding_of_unicode(encoding: str) -> None:
    assert completion_or_reason(json.dumps(done()).encode(encoding)) == read(done())


def test_of_a_repeated_member_the_last_one_counts() -> None:
    body = json.dumps(done()).replace('"id": "job-1"', '"id": "job-0", "id": "job-1"')
    assert parse(body.encode()).id == "job-1"


def test_nesting_at_the_edge_of_what_can_be_read_is_no_error_of_ours() -> None:
    # Between the depth that is easily read and the one that is refused, whatever the stack above has used.
    outcomes = set()
    for depth in range(1, 1100):
        nested = b"[" * depth + b"]" * depth
        body = json.dumps(done(_status={"code": "NESTED"})).encode().replace(b'"NESTED"', nested)
        outcome = completion_or_reason(body)
        outcomes.add("read" if isinstance(outcome, Completion) else outcome)
    assert outcomes == {"read", "body.not_json"}


@pytest.mark.parametrize(
    "value", ["a", "7", "_a", "d13389bf-6762-4439-87c6-eb4d02a08bc1", "A.b_c-d", "x" * 128]
)
def test_ids_are_letters_digits_dots_dashes_and_underscores(value: str) -> None:
    assert is_job_id(value)


@pytest.mark.parametrize("value", ["", "-a", ".a", "a b", "a/b", "é", "a\n", "x" * 129, None, 7, b"a"])
def test_other_values_are_no_ids(value: object) -> None:
    assert not is_job_id(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
strings = st.sampled_from(["DONE", "FAILED", "upscaler", "job-1", "\ud800", "x" * 300]) | st.text(max_size=5)


@st.composite
def near_completions(draw: st.DrawFn) -> dict[str, Any]:
    """A good completion in which some members were replaced by anything."""
    anything = json_values | strings
    document = done()
    record = document["response"]["records"][0]
    for member in draw(st.sets(st.sampled_from(sorted(record)))):
        record[member] = draw(anything | st.fixed_dictionaries({"code": anything, "text": anything}))
    for member in draw(st.sets(st.sampled_from(["id", "status", "type"]), max_size=1)):
        document[member] = draw(anything)
    return document


@given(st.binary())
def test_no_bytes_give_anything_but_a_completion_or_a_refusal(body: bytes) -> None:
    completion_or_reason(body)


@given(near_completions())
def test_nothing_near_a_completion_gives_anything_but_a_completion_or_a_refusal(document: Any) -> None:
    outcome = completion_or_reason(json.dumps(document).encode())
    if isinstance(outcome, Completion):
        assert is_job_id(outcome.id)
        assert (outcome.image_url is None) == (outcome.failure is not None)
        for side in (outcome.width, outcome.height):
            assert side is None or 0 < side < 2**31
        words = outcome.failure.detail if outcome.failure else ""
        for text in (outcome.image_url or "", outcome.source_url or "", words):
            assert text.isprintable()


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_python_reads_beyond_json_is_no_json(constant: str) -> None:
    body = json.dumps({**done(), "more": 0}).replace('"more": 0', f'"more": {constant}').encode()
    with pytest.raises(BodyError) as refusal:
        parse(body)
    assert refusal.value.reason == "body.not_json"


def test_a_number_beyond_all_numbers_is_no_width() -> None:
    body = (
        json.dumps(done(_upscaled_width=1))
        .replace('"_upscaled_width": 1', '"_upscaled_width": 1e999')
        .encode()
    )
    with pytest.raises(BodyError) as refusal:
        parse(body)
    assert refusal.value.reason == "body.not_a_completion"
