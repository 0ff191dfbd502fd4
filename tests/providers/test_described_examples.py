"""The descriptions in the documentation read the bodies beside them, as `receiver doctor` says."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from receiver.config import load
from receiver.core.errors import BodyError, ConfigError
from receiver.doctor import read_sample
from receiver.providers.base import Setup
from receiver.providers.described.description import Description
from receiver.providers.proofs import Ed25519, Hmac, StandardWebhooks
from receiver.providers.signatures import KeyForm
from receiver.providers.tables import Table, parse
from tests.docs.documents import DOCUMENTS
from tests.providers.samples.described import FOLDER, job

PAGE = DOCUMENTS["docs/guide/describing-a-provider.md"]
EXAMPLES = re.findall(
    r"^### [^\n]+\n\n```toml\n(.*?)```\n\n```json\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL
)
(FIRST,) = re.findall(r"^Freepik.+?\n\n```toml\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
NOW = 1_780_000_000_000


def sample(text: str, body: bytes, folder: Path, name: str | None = None) -> dict[str, Any]:
    path = folder / "described.toml"
    path.write_text(text, "utf-8")
    environ = {"RECEIVER_PROVIDERS": str(path)}
    name = name or parse(text, Description).name
    return read_sample(Setup(load(environ), environ, lambda: NOW), name, body)


def test_all_examples_are_found() -> None:
    names = [parse(text, Description).name for text, _ in EXAMPLES]
    assert names == ["wavespeed", "bfl", "higgsfield", "krea"]
    assert all("Not tried live" in text for text, _ in EXAMPLES)


@pytest.mark.parametrize(("text", "body"), EXAMPLES, ids=lambda it: it.splitlines()[0][:20])
def test_an_example_reads_the_body_beside_it(tmp_path: Path, text: str, body: str) -> None:
    found = sample(text, body.encode(), tmp_path)
    (output,) = found["outputs"]
    assert (found["state"], output["image_url"].partition("/")[0]) == ("received", "https:")
    changed = body.replace('"completed"', '"failed"').replace('"Ready"', '"Error"')
    failed = sample(text, changed.encode(), tmp_path)
    assert (failed["state"], failed["error"]["reason"]) == ("failed", "provider.job_failed")
    running = sample(text, re.sub(r'"(?:completed|Ready)"', '"in_progress"', body).encode(), tmp_path)
    assert (running["state"], running["status"]) == (None, "in_progress")


def test_the_first_example_reads_both_forms(tmp_path: Path) -> None:
    bare = {"id": "a1", "status": "succeeded", "images": [{"url": "https://files.example/1.png", "width": 9}]}
    for body in (bare, {"data": bare}):
        (output,) = sample(FIRST, json.dumps(body).encode(), tmp_path)["outputs"]
        assert (output["id"], output["promised"]) == ("acme:a1", {"width": 9, "height": None})
        assert output["url_expires_at"] == "2026-05-28T22:26:40Z"


def test_the_page_names_every_key_of_the_language() -> None:
    tables: list[type[Table]] = [Description, Ed25519, Hmac, StandardWebhooks]
    tables += [Description.model_fields[name].annotation for name in ("job", "outputs")]  # type: ignore[misc]
    for table in tables:
        for name in table.model_fields:
            assert f"`{name}`" in PAGE or f"[{name}]" in PAGE, name
    for form in get_args(KeyForm):
        assert f"`{form}`" in PAGE


def test_the_line_of_a_wrong_description_is_that_of_the_page(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"toml, line 10: job\.id: must be a path such as data\.id"):
        sample(FIRST.replace('id = ["id", "data.id"]', 'id = "data..id"'), b"{}", tmp_path, "acme")


def test_a_sample_needs_no_secret_and_refusals_say_why(tmp_path: Path) -> None:
    for path in sorted(FOLDER.glob("*.toml")):
        text = path.read_text()
        assert sample(text, job("j1", "busy"), tmp_path)["status"] == "busy"
    asked = sample(text + EXAMPLES[0][0][EXAMPLES[0][0].index("[ask]") :], job("j1", "ok"), tmp_path)
    assert (asked["outputs"], asked["is_asked_for"]) == ([], True)
    with pytest.raises(BodyError, match="no job's id"):
        sample(text, job("a/b", "ok"), tmp_path)
    with pytest.raises(BodyError) as raised:
        sample(text, b" " * 300_000, tmp_path)
    assert raised.value.reason == "body.too_large"
    with pytest.raises(ConfigError, match="nobody: no provider of this name is on"):
        read_sample(Setup(load({}), {}), "nobody", b"{}")
