"""Bodies of any shape under the names that providers use: each is read, or refused as no completion."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.config import load
from receiver.core.completion import is_job_id
from receiver.core.errors import BodyError
from receiver.core.json_text import MAX_DEPTH
from receiver.providers.base import Running, Setup
from receiver.providers.registry import open_providers
from tests.providers.samples import SAMPLES
from tests.support.clock import NOW

SETTINGS = {name: value for sample in SAMPLES.values() for name, value in sample.settings.items()}
PROVIDERS = open_providers(Setup(load(SETTINGS), SETTINGS, lambda: NOW))

WORDS = st.sampled_from(
    [
        "OK",
        "ERROR",
        "succeeded",
        "failed",
        "processing",
        "COMPLETED",
        "DONE",
        "run1",
        "-x",
        "a/b",
        "",
        "\ud800",
    ]
)
URLS = st.sampled_from(
    ["https://a.invalid/x.png", "http://[", "data:image/png;base64,AA", "https://\ud800/", "x"]
)
_NAMES = """
id request_id task_id status output payload payload_error error url image images generated data width height
file_size content_type completed_at input model response_url response records data_removed
"""
NAMES = st.sampled_from(_NAMES.split())
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS
    | URLS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=25,
)
BODIES = st.dictionaries(NAMES, VALUES, max_size=12) | VALUES


@pytest.mark.parametrize("name", sorted(PROVIDERS))
@pytest.mark.parametrize("depth", [400, 600, 940, 960, 980, 2000])
def test_a_body_of_any_depth_is_read_or_refused(name: str, depth: int) -> None:
    body, provider = SAMPLES[name].failed("run1"), PROVIDERS[name]
    deep = b"[" * depth + b"]" * depth
    members = ("payload", "input", "response", "data", "metrics")
    body = b"{" + b",".join(b'"%s":%s' % (it.encode(), deep) for it in members) + b"," + body.lstrip()[1:]
    assert isinstance(provider.redact(body), bytes)
    if depth > MAX_DEPTH:
        with pytest.raises(BodyError):
            provider.read(body)
    else:
        provider.read(body)


@pytest.mark.parametrize("name", sorted(PROVIDERS))
@given(document=BODIES, own_id=st.sampled_from(["run1", None]), status=WORDS)
def test_any_body_is_read_or_refused(name: str, document: object, own_id: str | None, status: str) -> None:
    if isinstance(document, dict) and own_id:
        document |= {"id": own_id, "request_id": own_id, "task_id": own_id, "status": status}
    body, provider = json.dumps(document).encode(), PROVIDERS[name]
    assert isinstance(provider.redact(body), bytes)
    try:
        reading = provider.read(body)
    except BodyError:
        return
    if isinstance(reading, Running):
        assert is_job_id(provider.job_id(reading.id))
        return
    for completion, deadline in provider.completions(reading, NOW):
        assert is_job_id(completion.id)
        assert completion.image_url is None or completion.image_url.isprintable()
        assert completion.failure is None or completion.image_url is None
        assert isinstance(deadline.at, int)
