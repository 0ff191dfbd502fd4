"""What descriptions can say, what wrong ones are answered with, and what they cannot do."""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from receiver.config import load
from receiver.core.completion import Failure
from receiver.core.errors import AuthError, BodyError, ConfigError
from receiver.providers.base import Calls, Ending, Proof, Provider, Running, Setup
from receiver.providers.described import provider as described_package
from receiver.providers.registry import ENTRIES, open_providers
from tests.providers.samples.described import FOLDER, digest, job

NOW = 1_780_000_000_000
GOOD = (FOLDER / "header.toml").read_text("utf-8")
HMAC = (FOLDER / "hmac-template.toml").read_text("utf-8")
ASK = """
[ask]
base = "https://api.acme.test/v2"
path = "/jobs/{id}"
secret = "ACME_API_KEY"
headers = { Authorization = "Bearer {secret}", X-Version = "7" }
"""
FILES = """
[files]
hosts = ["files.acme.test", "*.cdn.acme.test"]
secret = "ACME_API_KEY"
headers = { Authorization = "Bearer {secret}" }
"""
SECRETS = {"ACME_SECRET": "fixture-secret", "ACME_API_KEY": "fixture-key"}


def described(
    folder: Path, text: str, *others: str, secrets: Mapping[str, str] = SECRETS, now: int = NOW
) -> Provider:
    """The provider that a description makes, beside others."""
    paths = []
    for number, each in enumerate((text, *others)):
        path = folder / f"{number}.toml"
        path.write_text(each, "utf-8")
        paths.append(str(path))
    environ = {**secrets, "RECEIVER_PROVIDERS": json.dumps(paths)}
    return next(iter(open_providers(Setup(load(environ), environ, lambda: now)).values()))


def read(provider: Provider, body: bytes) -> Ending:
    reading = provider.read(body)
    assert isinstance(reading, Ending)
    return reading


def test_everything_that_a_body_promises_is_read(tmp_path: Path) -> None:
    file = {
        "href": "https://files.acme.test/1.png",
        "size": {"w": 640, "h": 480, "bytes": 1000},
        "type": "image/png",
        "until": "2026-05-28T22:00:00Z",
    }
    provider = described(tmp_path, GOOD)
    ending = read(provider, job("j1", "ok", files=[file], ended="2026-05-28T20:00:00+00:00"))
    (output,) = ending.outputs
    assert (output.url, output.width, output.height) == ("https://files.acme.test/1.png", 640, 480)
    assert (output.bytes, output.content_type, output.ends_at) == (1000, "image/png", 1_780_005_600_000)
    assert ending.ended_at == 1_779_998_400_000


@pytest.mark.parametrize(
    ("until", "end"),
    [
        (1_780_003_600, 1_780_003_600_000),
        (1_780_003_600_500, 1_780_003_600_500),
        (600, NOW + 600_000),
        (0.5, NOW + 500),
        (True, None),
        (-1, None),
        (10**30, None),
        ("soon", None),
        ({"in": 5}, None),
    ],
)
def test_the_end_of_a_url_is_a_moment_or_a_span(tmp_path: Path, until: object, end: int | None) -> None:
    files = [{"href": "https://files.acme.test/1.png", "until": until}]
    (output,) = read(described(tmp_path, GOOD), job("j1", "ok", files=files)).outputs
    assert output.ends_at == end


@pytest.mark.parametrize(
    ("until", "end"), [(600_000, NOW + 600_000), (1_780_003_600, 1_780_003_600_000), (NOW + 7, NOW + 7)]
)
def test_a_span_is_in_ms_where_the_description_says_so(tmp_path: Path, until: int, end: int) -> None:
    text = GOOD.replace('ends_at = "until"', 'ends_at = "until"\ntime_unit = "ms"')
    files = [{"href": "https://files.acme.test/1.png", "until": until}]
    (output,) = read(described(tmp_path, text), job("j1", "ok", files=files)).outputs
    assert output.ends_at == end


@pytest.mark.parametrize(
    ("stamp", "is_good"),
    [
        (NOW, True),
        (NOW - 299_999, True),
        (NOW - 300_001, False),
        (NOW + 300_001, False),
        (NOW // 1000, False),
    ],
)
def test_the_time_of_a_signature_is_in_ms_where_the_description_says_so(
    tmp_path: Path, stamp: int, *, is_good: bool
) -> None:
    provider = described(tmp_path, HMAC.replace("\ntime =", '\ntime_unit = "ms"\ntime ='))
    body, key = job("j1", "busy"), SECRETS["ACME_SECRET"].encode()
    signature = base64.b64encode(digest(key, f"n1.{stamp}.".encode() + body))
    headers = [
        (b"x-acme-id", b"n1"),
        (b"x-acme-time", str(stamp).encode()),
        (b"x-acme-signature", signature),
    ]
    if is_good:
        assert provider.proof.check(headers, body) == Proof()
    else:
        with pytest.raises(AuthError):
            provider.proof.check(headers, body)


def test_only_the_words_that_are_named_are_ends(tmp_path: Path) -> None:
    provider = described(tmp_path, GOOD)
    for state in ("OK", "Broken", "", "queued", "x" * 1000):
        assert isinstance(provider.read(job("j1", state)), Running)
    failure = read(provider, job("j1", "refused", error={"message": "no\nluck"})).failure
    assert failure is not None
    assert failure.detail == "refused: no luck"
    for wrong in (None, 7, ["ok"]):
        with pytest.raises(BodyError, match="state is missing"):
            provider.read(job("j1", wrong))


def test_where_all_words_are_named_an_unknown_one_is_refused_and_kept(tmp_path: Path) -> None:
    provider = described(tmp_path, GOOD.replace("[job]", '[job]\nrunning = ["queued"]'))
    assert isinstance(provider.read(job("j1", "queued")), Running)
    assert isinstance(provider.read(job("j1", "ok", url="https://a.test/x.png")), Ending)
    with pytest.raises(BodyError, match="state is OK, which is unknown"):
        provider.read(job("j1", "OK"))


def test_alternatives_are_tried_in_order_and_nulls_are_passed_over(tmp_path: Path) -> None:
    text = GOOD.replace('id = "job.id"', 'id = ["job.uuid", "job.id"]')
    provider = described(tmp_path, text)
    for first, expected in ((None, "j2"), ("j1", "j1")):
        assert provider.read(job("j2", "busy", uuid=first)) == Running(expected, "busy")


def test_numbers_are_ids_only_where_the_description_says_so(tmp_path: Path) -> None:
    body = job(7, "busy")
    with pytest.raises(BodyError):
        described(tmp_path, GOOD).read(body)
    numbers = described(tmp_path, GOOD.replace("[job]", "[job]\nnumeric_id = true"))
    assert numbers.read(body) == Running("7", "busy")
    for wrong in (True, 7.5, -7.5, 10**200):
        with pytest.raises(BodyError):
            numbers.read(job(wrong, "busy"))


def test_a_file_may_stand_anywhere_within_lists_of_lists(tmp_path: Path) -> None:
    provider = described(tmp_path, GOOD.replace('"job.files[]"', '"job.rows[][].files[]"'))
    url = "https://files.acme.test/{}.png".format
    rows = [[{"files": [{"href": url(1)}]}, {}], [{"files": [{"href": url(2)}, {"href": url(3)}]}], "x"]
    assert [it.url for it in read(provider, job("j1", "ok", rows=rows)).outputs] == [url(1), url(2), url(3)]


@pytest.mark.parametrize("files", [[{"href": 7}], [None], [{}], ["x"], [{"href": ""}], [{"href": "a\n"}]])
def test_an_output_without_a_url_is_refused_by_itself(tmp_path: Path, files: list[object]) -> None:
    good = {"href": "https://files.acme.test/1.png"}
    first, second = read(described(tmp_path, GOOD), job("j1", "ok", files=[*files, good])).outputs
    assert (first.url, first.failure) == (None, Failure("url.malformed", "Output 1 is no URL."))
    assert (second.url, second.failure) == (good["href"], None)


def test_what_a_body_echoes_is_redacted_at_its_places_and_wherever_a_secret_stands(tmp_path: Path) -> None:
    text = 'redact = ["job.echo.token", "job.calls[].key", "job.list[]"]\n' + GOOD
    body = job(
        "j1", "ok", echo={"token": "t"}, calls=[{"key": {"a": 1}}, {}], list=["u", "v"], at="fixture-secret"
    )
    provider = described(tmp_path, text)
    kept = json.loads(provider.redact(body))["job"]
    mask = "*" * 10
    assert kept["echo"] == {"token": mask}
    assert kept["calls"] == [{"key": mask}, {}]
    assert kept["list"] == [mask, mask]
    assert kept["at"] == mask
    assert provider.redact(b"no JSON, fixture-secret") == f"no JSON, {mask}".encode()


class Api:
    def __init__(self, *answers: httpx.Response) -> None:
        self.requests: list[httpx.Request] = []
        self._answers = list(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._answers.pop(0)


async def test_asking_sends_the_secret_to_the_api_and_nowhere_else(tmp_path: Path) -> None:
    provider = described(tmp_path, GOOD + ASK)
    elsewhere = httpx.Response(302, headers={"Location": "https://other.test/"})
    api = Api(httpx.Response(200, json={"job": {"id": "j1", "state": "busy"}}), elsewhere)
    client = provider.open_client(Calls(transport=httpx.MockTransport(api)))
    assert client is not None
    report = await client.get("j1")
    assert (report.status, report.ending, json.loads(report.body)["job"]["id"]) == ("busy", None, "j1")
    with pytest.raises(Exception, match="answers 302"):
        await client.get("j1")
    await client.aclose()
    assert [str(request.url) for request in api.requests] == ["https://api.acme.test/v2/jobs/j1"] * 2
    assert api.requests[0].headers["authorization"] == "Bearer fixture-key"
    assert api.requests[0].headers["x-version"] == "7"


def test_a_header_of_files_goes_to_their_hosts_alone(tmp_path: Path) -> None:
    files = described(tmp_path, GOOD + FILES).files
    assert files is not None
    assert files.headers_for("https", "a.cdn.acme.test", 443) == {"Authorization": "Bearer fixture-key"}
    for place in (("http", "files.acme.test", 80), ("https", "acme.test", 443), ("https", "x.test", 443)):
        assert files.headers_for(*place) == {}


WRONG: Mapping[str, tuple[str, str, str]] = {
    # what is wrong: the text, and the line and key that are named
    "no TOML": (GOOD.replace("[proof]", "[proof"), "line 5", "is no TOML"),
    "TOML that ends early": (GOOD + 'x = """', r"line \d+|the end", "is no TOML"),
    "a key twice": (GOOD + 'url = "x"\n', "line 26", "is no TOML"),
    "an unknown key": (GOOD.replace("[job]", "[job]\nfails = []"), "line 11: job.fails", "means nothing"),
    "an unknown table": (GOOD + "[asks]", "line 26: asks", "means nothing"),
    "a missing key": (GOOD.replace('state = "job.state"', ""), "line 10: job.state", "is missing"),
    "a missing table": (GOOD[: GOOD.index("[outputs]")], "line 1: outputs", "is missing"),
    "a kind of proof that there is not": (GOOD.replace('"header"', '"md5"'), "line 5: proof", "none of"),
    "no kind": (GOOD.replace('kind = "header"', ""), "line 5: proof", "has no kind"),
    "a name with a slash": (GOOD.replace('"acme-header"', '"../x"'), "line 1: name", "small letters"),
    "a name in capitals": (GOOD.replace('"acme-header"', '"Acme"'), "line 1: name", "small letters"),
    "a long name": (GOOD.replace("acme-header", "a" * 33), "line 1: name", "at most 32"),
    "a life that is none": (GOOD.replace('"2h"', '"soon"'), "line 3: url_lifetime", "duration"),
    "a secret in the file": (GOOD.replace('"ACME_SECRET"', '"k3y"'), "line 8: proof.secret", "never the sec"),
    "a setting of the receiver": (
        GOOD.replace("ACME_SECRET", "RECEIVER_API_TOKENS"),
        "line 8: proof.secret",
        "environment variable",
    ),
    "another provider's setting": (GOOD.replace("ACME_SECRET", "FAL_KEY"), "line 5: proof", "another prov"),
    "a header that is none": (GOOD.replace("X-Acme-Secret", "X Y"), "line 7: proof.header", "HTTP"),
    "a path that is none": (GOOD.replace("job.id", "job..id"), "line 11: job.id", "must be a path"),
    "a path that is empty": (GOOD.replace('"job.id"', "[]"), "line 11: job.id", "must be a path"),
    "a long path": (GOOD.replace("job.id", ".".join("a" * 17)), "line 11: job.id", "at most 16"),
    "an id in a list": (GOOD.replace("job.id", "jobs[].id"), "line 11: job.id", r"must not hold \[\]"),
    "no word for done": (GOOD.replace('["ok"]', "[]"), "line 13: job.done", "not be empty"),
    "one word for two ends": (GOOD.replace('["broken"', '["ok"'), "line 14: job.failed", "in done"),
    "a text for a list": (GOOD.replace('["ok"]', '"ok"'), "line 13: job.done", "must be a list"),
    "a body that is not signed": (HMAC.replace(".{body}", ""), "line 12: proof.signed", "prove the body"),
    "a time that is not signed": (
        HMAC.replace("{X-Acme-Time}", "x"),
        "line 12: proof.signed",
        "change the t",
    ),
    "a brace too many": (HMAC.replace("{body}", "{body}}"), "line 12: proof.signed", "brace"),
    "an encoding that there is not": (HMAC.replace('"base64"', '"rot13"'), "line 10: proof.encoding", "hex"),
    "a signature that is good for years": (
        HMAC.replace("[job]", 'tolerance = "36500d"\n[job]'),
        "line 14: proof.tolerance",
        "5m or less",
    ),
    "a title that cannot be shown": (
        GOOD.replace('title = "', 'title = "\\u001b'),
        "line 2: title",
        "cannot be shown",
    ),
    "a word that is an end and none": (
        GOOD.replace("[job]", '[job]\nrunning = ["ok"]'),
        r"line 11: job.running",
        "in done",
    ),
    "plain http": (GOOD + ASK.replace("https:", "http:"), "line 28: ask.base", "https"),
    "a password in a URL": (GOOD + ASK.replace("api.", "u:p@api."), "line 28: ask.base", "https://host/path"),
    "a question about no job": (GOOD + ASK.replace("{id}", "1"), "line 29: ask.path", "must hold {id}"),
    "a question that leaves the path": (GOOD + ASK.replace("/jobs", "/.."), "line 29: ask.path", "a path"),
    "a secret in a header": (GOOD + ASK.replace("{secret}", "s3"), "line 31: ask.headers", "no secret may"),
    "an endpoint that leaves the path": (GOOD + ASK + 'endpoint = "../x"', "line 32: ask.endpoint", "form"),
    "an endpoint that is missing": (
        GOOD + ASK.replace("/jobs", "/{endpoint}"),
        "line 27: ask",
        "an endpoint",
    ),
    "a blank in a prefix": (HMAC.replace("[job]", 'prefix = "a b"\n[job]'), "line 14: proof.prefix", "form"),
    "a rate of none": (GOOD + ASK + "rate = 0", "line 32: ask.rate", "more than 0"),
    "a host that is none": (GOOD + FILES.replace("*.cdn", "*.*"), "line 28: files.hosts", "host names"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_description_is_named_by_its_line_and_its_fault(tmp_path: Path, case: str) -> None:
    text, where, what = WRONG[case]
    with pytest.raises(ConfigError) as raised:
        described(tmp_path, text)
    message = str(raised.value)
    assert re.fullmatch(rf"RECEIVER_PROVIDERS: .*/0\.toml, (?:{where}):? .*{what}.*", message), message
    assert "k3y" not in message


def test_the_package_is_short() -> None:
    folder = Path(described_package.__file__).parent
    assert sum(len(path.read_text().splitlines()) for path in folder.glob("*.py")) < 400


def test_where_all_is_confirmed_a_provider_that_cannot_be_asked_stops_the_start(tmp_path: Path) -> None:
    confirm = {**SECRETS, "RECEIVER_CONFIRM": "on"}
    assert described(tmp_path, GOOD + ASK, secrets=confirm).has_token
    with pytest.raises(ConfigError, match=r"^RECEIVER_CONFIRM: .*acme-header cannot be asked.*\[ask\]"):
        described(tmp_path, GOOD, secrets=confirm)


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    for entry in ENTRIES:
        with pytest.raises(ConfigError, match=f"{entry.name} is the name of another provider"):
            described(tmp_path, GOOD.replace("acme-header", entry.name))
    with pytest.raises(ConfigError, match=r"1\.toml: acme-header is the name of another provider"):
        described(tmp_path, GOOD, GOOD)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    environ = {**SECRETS, "RECEIVER_PROVIDERS": str(tmp_path / "none.toml")}
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read \(FileNotFoundError\)"):
        open_providers(Setup(load(environ), environ))
    for text, why in (("# " + "x" * 70_000, "larger than"), ("x = " + "[" * 5000, "nested too deep|no TOML")):
        with pytest.raises(ConfigError, match=why):
            described(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "secrets", "line"),
    [
        (GOOD, {}, "ACME_SECRET: not set"),
        (GOOD, {"ACME_SECRET": " ,"}, "ACME_SECRET: not set"),
        (GOOD + ASK, {"ACME_SECRET": "s"}, "ACME_API_KEY: not set"),
        (GOOD + ASK, {"ACME_SECRET": "s", "ACME_API_KEY": "k3 y"}, "ACME_API_KEY: has a character"),
        ((FOLDER / "standard.toml").read_text(), {"ACME_SECRET": "k3y!"}, "ACME_SECRET: has a value"),
    ],
)
def test_a_secret_that_is_missing_or_wrong_is_named(
    tmp_path: Path, text: str, secrets: Mapping[str, str], line: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        described(tmp_path, text, secrets=secrets)
    assert str(raised.value).startswith(line)
    assert "k3" not in str(raised.value)


def test_secrets_may_be_files_and_several(tmp_path: Path) -> None:
    (tmp_path / "ACME_SECRET").write_text("k3y-1, k3y-2\n")
    provider = described(tmp_path, GOOD, secrets={"RECEIVER_SECRETS_DIR": str(tmp_path)})
    for secret in (b"k3y-1", b"k3y-2"):
        assert provider.proof.admit([(b"x-acme-secret", secret)]) is not None
    assert "k3y" not in repr(provider)


def deep(levels: int) -> Any:
    found: Any = "https://files.acme.test/1.png"
    for _ in range(levels):
        found = [found]
    return found


def test_depth_and_numbers_of_a_body_bound_the_work(tmp_path: Path) -> None:
    provider = described(tmp_path, 'redact = ["job.files[]"]\n' + GOOD)
    many = job("j1", "ok", files=[{"href": "https://files.acme.test/1.png"}] * 10_000)
    with pytest.raises(BodyError, match="more than 500 outputs"):
        provider.read(many)
    nested = job("j1", "ok", files=deep(400))
    (output,) = read(provider, nested).outputs
    assert output.failure == Failure("url.malformed", "Output 1 is no URL.")
    assert json.loads(provider.redact(nested))["job"]["files"] == ["*" * 10]
    too_deep = b'{"job": ' * 1000 + b"1" + b"}" * 1000
    with pytest.raises(BodyError, match="not JSON"):
        provider.read(too_deep)
    assert provider.redact(too_deep) == too_deep
