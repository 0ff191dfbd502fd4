"""``receiver init`` on a real terminal: it asks, checks, and writes nothing before the last answer."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from receiver.bootstrap.secrets import dotenv_line as line
from receiver.config import environment, load
from tests.support.processes import PROVIDER_TOKEN, Program, Programs, Sandbox, command, run
from tests.support.seaweed import Seaweed, seaweed
from tests.support.terminal import Typed, on_a_terminal

NOTHING = [
    Typed("Whose deliveries", "\n"),
    Typed("XIMILAR_API_TOKEN", "\n", hidden=True),
    Typed("RECEIVER_ARCHIVE", "\n"),
    Typed("RECEIVER_PUBLIC_URL", "\n"),
    Typed("RECEIVER_API_TOKENS", "\n", hidden=True),
]
"""Enter at each question."""


@pytest.fixture(scope="module")
def store() -> Iterator[Seaweed]:
    with seaweed() as store:
        yield store


def test_what_somebody_answers_is_checked_and_serve_begins_with_it(
    programs: Programs, box: Sandbox, tmp_path: Path
) -> None:
    provider = {"XIMILAR_API_URL": str(box.base_url).rstrip("/")}
    script = [
        Typed("Whose deliveries", "xmilar\n"),
        Typed("There is no provider xmilar.", ""),
        Typed("Whose deliveries", "ximilar\n"),
        Typed("XIMILAR_API_TOKEN", "wrong-token-of-mine\n", hidden=True),
        Typed("Keep it all the same?", "n\n"),
        Typed("XIMILAR_API_TOKEN", f"{PROVIDER_TOKEN}\n", hidden=True),
        Typed("takes the token", ""),
        Typed("RECEIVER_ARCHIVE", "pictures\n"),
        Typed("RECEIVER_ARCHIVE: must be", ""),
        Typed("RECEIVER_ARCHIVE", f"{(tmp_path / 'pictures').as_uri()}\n"),
        Typed("serve makes it", ""),
        Typed("RECEIVER_PUBLIC_URL", "receiver\n"),
        Typed("RECEIVER_PUBLIC_URL: must be a URL", ""),
        Typed("RECEIVER_PUBLIC_URL", "http://127.0.0.1:9/\n"),
        Typed("RECEIVER_API_TOKENS", "password\n", hidden=True),
        Typed("RECEIVER_API_TOKENS: looks like a value from an example", ""),
        Typed("RECEIVER_API_TOKENS", "a-good-token-of-my-own\n", hidden=True),
    ]
    code, said = on_a_terminal(["init"], tmp_path, provider, script=script)
    assert code == 0, said
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == [".env"]
    config = load(environment({}, tmp_path / ".env"))
    assert config.ximilar_api_token is not None
    assert config.ximilar_api_token.get_secret_value() == PROVIDER_TOKEN
    assert config.archive == (tmp_path / "pictures").as_uri()
    assert [token.get_secret_value() for token in config.api_tokens] == ["a-good-token-of-my-own"]
    assert not any(secret in said for secret in (PROVIDER_TOKEN, "wrong-token", "a-good-token"))
    assert re.search(r"OK +settings: \d+ are set", said)
    assert re.search(r"warning +serve: no serve runs", said)

    (request,) = re.findall(r'^ +("webhook": .*)$', said, re.MULTILINE)
    webhook = json.loads(f"{{{request}}}")["webhook"]
    assert webhook["endpoint"] == "http://127.0.0.1:9/webhooks/ximilar"
    with Program("receiver", command("serve"), tmp_path, {**provider, "RECEIVER_PORT": "0"}) as program:
        programs.started.append(program)
        address = program.until_event("serving")["address"]
        for headers, status in ((webhook["headers"], 422), ({}, 401)):
            answer = httpx.post(f"{address}/webhooks/ximilar", json={}, headers=headers, trust_env=False)
            assert answer.status_code == status


def test_enter_at_each_question_is_all_that_serve_needs_and_the_former_file_is_kept(tmp_path: Path) -> None:
    code, said = on_a_terminal(["init"], tmp_path, {}, script=NOTHING)
    assert code == 0, said
    first = (tmp_path / ".env").read_text()
    load(environment({}, tmp_path / ".env")).check_serve()
    refused = on_a_terminal(["init"], tmp_path, {}, script=[Typed("Replace .env", "n\n")])
    assert (refused[0], "nothing was written" in refused[1]) == (1, True)
    assert (tmp_path / ".env").read_text() == first
    code, said = on_a_terminal(["init"], tmp_path, {}, script=[Typed("Replace .env", "y\n"), *NOTHING])
    assert code == 0, said
    assert (tmp_path / ".env.old").read_text() == first
    assert (tmp_path / ".env.old").stat().st_mode & 0o777 == 0o600
    second = (tmp_path / ".env").read_text()
    assert second != first
    script = [Typed(".env.old2", "y\n"), Typed("Whose deliveries", "ximilar,\n"), *NOTHING[1:]]
    code, said = on_a_terminal(["init"], tmp_path, {}, script=script)
    assert code == 0, said
    assert [(tmp_path / name).read_text() for name in (".env.old", ".env.old2")] == [first, second]


@pytest.mark.parametrize(("key", "code"), [("\x04", 1), ("\x03", 130)], ids=["Ctrl-D", "Ctrl-C"])
def test_nothing_is_written_before_the_last_answer(tmp_path: Path, key: str, code: int) -> None:
    script = [*NOTHING[:-1], Typed("RECEIVER_API_TOKENS", key, hidden=True)]
    ended, said = on_a_terminal(["init"], tmp_path, {}, script=script)
    assert ended == code, said
    assert list(tmp_path.iterdir()) == []


def test_several_providers_are_asked_for_what_is_theirs_to_give(tmp_path: Path) -> None:
    script = [
        Typed("Whose deliveries", "replicate, fal\n"),
        Typed("REPLICATE_WEBHOOK_SECRET", "no base64!\n", hidden=True),
        Typed("REPLICATE_WEBHOOK_SECRET: has a value that is not whsec_", ""),
        Typed("REPLICATE_WEBHOOK_SECRET", "whsec_c2FuZGJveC1zYW5kYm94LXNhbmRib3g=\n", hidden=True),
        Typed("REPLICATE_API_TOKEN", "\n", hidden=True),
        Typed("FAL_KEY", "\n", hidden=True),
        *NOTHING[2:],
    ]
    nowhere = {"FAL_API_URL": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    code, said = on_a_terminal(["init"], tmp_path, nowhere, script=script)
    assert code == 0, said
    assert 'Replicate delivers where a request has this:\n  "webhook": "https://receiver.example.com/' in said
    assert "?fal_webhook=https://receiver.example.com/webhooks/fal" in said
    values = environment({}, tmp_path / ".env")
    assert (values["FAL_JWKS_URL"], "FAL_KEY" in values) == ("default", False)
    assert values["REPLICATE_WEBHOOK_SECRET"].startswith("whsec_c2Fu")


def test_a_bucket_is_written_to_before_its_credentials_are_kept(store: Seaweed, tmp_path: Path) -> None:
    given = store.environment()

    def credentials(secret: str) -> list[Typed]:
        return [
            Typed("RECEIVER_ARCHIVE", f"s3://{store.bucket}/first\n"),
            Typed("AWS_REGION", f"{given['AWS_REGION']}\n"),
            Typed("AWS_ACCESS_KEY_ID", f"{given['AWS_ACCESS_KEY_ID']}\n"),
            Typed("AWS_SECRET_ACCESS_KEY", f"{secret}\n", hidden=True),
        ]

    script = [
        *NOTHING[:2],
        *credentials("a-wrong-secret"),
        Typed("archive.denied", ""),
        Typed("Keep it all the same?", "n\n"),
        *credentials(given["AWS_SECRET_ACCESS_KEY"]),
        Typed("written, verified, read and removed", ""),
        *NOTHING[3:],
    ]
    known = {name: value for name, value in given.items() if name not in {"AWS_REGION", "AWS_ACCESS_KEY_ID"}}
    del known["AWS_SECRET_ACCESS_KEY"]
    code, said = on_a_terminal(["init"], tmp_path, known, script=script)
    assert code == 0, said
    values = environment({}, tmp_path / ".env")
    assert values["AWS_SECRET_ACCESS_KEY"] == given["AWS_SECRET_ACCESS_KEY"]
    assert given["AWS_SECRET_ACCESS_KEY"] not in said


def test_without_a_terminal_it_prints_as_before(tmp_path: Path) -> None:
    said = run(["init", "--provider", "replicate"], tmp_path, {})
    assert (said.returncode, said.stderr) == (0, "")
    assert "REPLICATE_WEBHOOK_SECRET=''" in said.stdout
    assert list(tmp_path.iterdir()) == []
    code, _ = on_a_terminal(["init"], tmp_path, {}, output=tmp_path / ".env")  # receiver init > .env
    assert (code, "RECEIVER_API_TOKENS=" in (tmp_path / ".env").read_text()) == (0, True)


@pytest.mark.parametrize(
    "value", ["plain", "it's", 'a "quoted" #one', "back\\slash", "\\'", "$HOME `x` ${y}", "ü "]
)
def test_a_line_of_dotenv_is_read_as_it_was_given(tmp_path: Path, value: str) -> None:
    (tmp_path / ".env").write_text(f"{line('RECEIVER_API_TOKENS', value)}\n")
    assert environment({}, tmp_path / ".env") == {"RECEIVER_API_TOKENS": value}
