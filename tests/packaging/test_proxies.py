"""Each proxy of ``deploy/`` before a real receiver: restarts, early answers, events, and what passes.

The proxies are wheels: nginx 1.31.3, HAProxy 2.8.25, Traefik 3.7.15, Envoy 1.40.0, Caddy 2.11.
"""

import asyncio
import contextlib
import json
import re
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml

from receiver import config
from receiver.api.params import MAX_WAIT
from receiver.web.clients import client_of
from receiver.web.protocol import KEEP_ALIVE_SECONDS
from tests.support.processes import (
    API_TOKEN,
    PATIENCE,
    PROOF,
    ROOT,
    WEBHOOK,
    WEBHOOK_SECRET,
    Programs,
    Receiver,
    completion,
    run_process,
    settings,
)
from tests.support.proxies import NAMES, SHIPPED, Front, front
from tests.support.waiting import eventually

RESTARTS = 5
"""So many as the configurations were measured with."""

POSTS_A_SECOND = 20
WHILE_UP, WHILE_DOWN = 8, 10
"""Deliveries between a start and a stop, and between a stop and a start."""

NOWHERE = "https://10.0.0.1/never-asked-for"
"""An image URL that is refused: the job ends without a look at the network."""

CLOUD_SETTINGS: str = yaml.safe_load((ROOT / "deploy/cloud-init.yaml").read_text())["write_files"][0][
    "content"
]
"""Settings of a receiver behind a proxy on the same machine."""

TOKEN = {"Authorization": f"Bearer {API_TOKEN}"}


@pytest.fixture(scope="module", params=NAMES)
def proxy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with front(request.param, tmp_path_factory.mktemp(request.param)) as it:
        yield it


@contextmanager
def receiver_behind(proxy: Front, programs: Programs, **more: str) -> Iterator[Receiver]:
    """A receiver where the proxy looks for it."""
    programs.started += proxy.programs
    with programs.receiver(settings(programs.folder, RECEIVER_PORT=str(proxy.port), **more)) as receiver:
        yield receiver


@pytest.fixture
def receiver(proxy: Front, programs: Programs) -> Iterator[Receiver]:
    with receiver_behind(proxy, programs) as it:
        yield it


@pytest.fixture
def client(proxy: Front) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=proxy.address, verify=proxy.trust, trust_env=False, timeout=PATIENCE
    ) as client:
        yield client


class Deliveries:
    """So many deliveries a second, each of another job, sent once."""

    def __init__(self, proxy: Front) -> None:
        self._proxy = proxy
        self.enough = threading.Event()
        self.sent = 0
        self.answers: Counter[str] = Counter()

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        async with (
            httpx.AsyncClient(
                verify=self._proxy.trust,
                trust_env=False,
                timeout=2 * PATIENCE,
                limits=httpx.Limits(max_connections=None),
            ) as client,
            asyncio.TaskGroup() as deliveries,
        ):
            while not self.enough.is_set():
                deliveries.create_task(self._deliver(client, f"job-{self.sent}"))
                self.sent += 1
                await asyncio.sleep(1 / POSTS_A_SECOND)

    def until_more(self, count: Callable[[], int], more: int) -> None:
        """Waits until a count has grown."""
        wanted = count() + more
        eventually(lambda: count() >= wanted)

    async def _deliver(self, client: httpx.AsyncClient, job_id: str) -> None:
        body = completion(job_id, NOWHERE, 8, 8)
        try:
            answer = await client.post(self._proxy.address + WEBHOOK, json=body, headers=PROOF)
        except httpx.TransportError as error:
            self.answers[type(error).__name__] += 1
        else:
            self.answers["acknowledged" if answer.status_code == 200 else answer.text] += 1


@pytest.mark.timeout(300)
def test_no_delivery_is_refused_over_restarts(proxy: Front, programs: Programs) -> None:
    deliveries = Deliveries(proxy)
    with ThreadPoolExecutor(1) as pool:
        try:
            with receiver_behind(proxy, programs):
                sending = pool.submit(deliveries.run)
                deliveries.until_more(deliveries.answers.total, WHILE_UP)
            for _ in range(RESTARTS):
                # Nothing listens now. What is delivered meanwhile waits at the proxy.
                deliveries.until_more(lambda: deliveries.sent, WHILE_DOWN)
                with receiver_behind(proxy, programs):
                    deliveries.until_more(deliveries.answers.total, WHILE_UP + WHILE_DOWN)
            with receiver_behind(proxy, programs):
                deliveries.enough.set()
                sending.result(2 * PATIENCE)
        finally:
            deliveries.enough.set()
    assert deliveries.answers == {"acknowledged": deliveries.sent}


def test_a_late_status_is_that_of_the_receiver_although_the_body_was_not_wanted(
    receiver: Receiver, client: httpx.Client
) -> None:
    """A proxy whose receiver ends the connection in mid-body answers 502 or 504."""
    larger = b"x" * 990_000  # than the receiver takes, and not larger than the proxies pass on
    for _ in range(5):
        for headers in (PROOF, {}):
            answer = client.post(WEBHOOK, content=larger, headers=headers)
            assert (answer.status_code, answer.json()["reason"]) == (413, "body.too_large")
        answer = client.post("/jobs", content=larger)
        assert (answer.status_code, answer.json()["reason"]) == (401, "auth.token_refused")


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.parametrize("expect", [True, False])
def test_curl_reads_an_early_status_behind_the_proxy(
    proxy: Front, receiver: Receiver, tmp_path: Path, version: str, *, expect: bool
) -> None:
    """The receiver takes 256 KiB and answers while the rest is still sent; curl asks first, or just sends."""
    (tmp_path / "body").write_bytes(b"x" * 990_000)
    arguments = [
        *("curl", "--silent", "--show-error", "--noproxy", "*", version, "--data-binary", "@body"),
        *("--cacert", str(authorities(proxy, tmp_path)), "--max-time", str(PATIENCE)),
        *("--header", "Expect: 100-continue" if expect else "Expect:"),
        *("--header", f"X-Webhook-Secret: {WEBHOOK_SECRET}", "--write-out", "\n%{http_code}"),
    ]
    done = subprocess.run(
        [*arguments, proxy.address + WEBHOOK], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    # HAProxy 2.8 resets some HTTP/2 streams behind the answer, where much of the body is unsent. Of such an
    # answer curl gives what it had read by then.
    reset = done.returncode == 92 and (proxy.name, version) == ("haproxy", "--http2")
    assert done.returncode == 0 or reset, done.stderr
    body, _, status = done.stdout.rpartition("\n")
    assert status == "413"
    assert (reset and not body) or json.loads(body)["reason"] == "body.too_large"


def test_a_body_over_the_limit_is_not_sent_to_the_receiver_again_and_again(
    proxy: Front, receiver: Receiver, client: httpx.Client
) -> None:
    # Caddy takes what it left of a body for the next head, so the connection is not used again.
    once = {**PROOF, "Connection": "close"}
    with contextlib.suppress(httpx.TransportError):  # it may hang up on a client that goes on sending
        answer = client.post(WEBHOOK, content=b"x" * 3_000_000, headers=once)
        assert answer.status_code == 413
    assert client.post(WEBHOOK, json={}, headers=PROOF).status_code == 422
    refused = receiver.program.events("delivery refused")
    assert sum(line["times"] for line in refused if line["reason"] != "body.not_a_completion") <= 1


def test_a_delivery_that_offers_http_2_passes(receiver: Receiver, client: httpx.Client) -> None:
    offer = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": "h2c",
        "HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA",
    }
    answer = client.post(WEBHOOK, json=completion("job", NOWHERE, 8, 8), headers={**PROOF, **offer})
    assert (answer.status_code, answer.http_version) == (200, "HTTP/1.1")


def test_an_event_passes_at_once(receiver: Receiver, client: httpx.Client) -> None:
    with client.stream("GET", "/jobs/changes", headers=TOKEN) as stream:
        lines = stream.iter_lines()
        assert any(line.startswith("id:") for line in lines)
        for number in range(3):
            client.post(WEBHOOK, json=completion(f"job-{number}", NOWHERE, 8, 8), headers=PROOF)
            assert any(f"job-{number}" in line and "received" in line for line in lines)


ASKED = ("/", "/jobs", "/jobs/none", "/stats", "/deliveries", "/openapi.json", "/static/none", "/page/none")
INSIDE = (
    "/metrics",
    "/healthz",
    "/readyz",
    "/jobs/../metrics",
    "/%6detrics",
    "//metrics",
    "/webhooks/a/b",
    "/webhooks/",
)
OF_THE_RECEIVER = "referrer-policy"
"""A header of all its answers, and of no proxy's own."""


def test_only_the_webhook_and_the_questions_pass(
    proxy: Front, receiver: Receiver, client: httpx.Client
) -> None:
    for path in (WEBHOOK, WEBHOOK + "/"):
        assert client.post(path, json={}).status_code == 401
    off = client.post("/webhooks/replicate", json={})
    assert (off.status_code, OF_THE_RECEIVER in off.headers) == (404, True)
    for path in ASKED:
        assert OF_THE_RECEIVER in client.get(path).headers, path
    for path in INSIDE:
        answer = client.get(proxy.address + path, headers=TOKEN)
        assert answer.status_code in {400, 404}, path
        assert OF_THE_RECEIVER not in answer.headers, path


@pytest.mark.parametrize("claimed", [{}, {"X-Forwarded-For": "198.51.100.7"}], ids=["", "claimed"])
def test_limits_go_by_the_client_that_the_proxy_names(
    proxy: Front, tmp_path: Path, claimed: dict[str, str]
) -> None:
    """A receiver with the shipped setting counts it as 127.0.0.2, whatever the client says of itself."""
    counted: list[str] = []
    (tmp_path / ".env").write_text(CLOUD_SETTINGS)
    trusted = config.load(config.environment({}, tmp_path / ".env")).trusted_proxies

    class Upstream(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            headers = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
            counted.append(client_of(self.client_address[0], headers, trusted))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", proxy.port), Upstream) as upstream:
        serving = threading.Thread(target=upstream.serve_forever, args=(0.02,))
        serving.start()
        try:
            transport = httpx.HTTPTransport(verify=proxy.trust, local_address="127.0.0.2")
            with httpx.Client(transport=transport, timeout=PATIENCE) as client:
                client.post(proxy.address + WEBHOOK, json={}, headers=claimed).raise_for_status()
        finally:
            upstream.shutdown()
            serving.join()
    assert counted == ["127.0.0.2"]


def authorities(proxy: Front, folder: Path) -> Path:
    """A file of those who vouch for the proxy."""
    path = folder / "authorities.pem"
    path.write_text("".join(map(ssl.DER_cert_to_PEM_cert, proxy.trust.get_ca_certs(binary_form=True))))
    return path


def doctor(proxy: Front, values: Mapping[str, str], folder: Path) -> str:
    """What the doctor says of the webhook through the proxy."""
    more = {"RECEIVER_PUBLIC_URL": proxy.address, "SSL_CERT_FILE": str(authorities(proxy, folder))}
    said = run_process(["doctor"], folder, {**values, **more}).stdout
    assert f"{proxy.address} leads to this installation" in said
    (line,) = (line for line in said.splitlines() if line.split("\t")[1] == "webhook")
    return line


@pytest.mark.parametrize("name", ["X_Webhook_Secret", "X.Webhook.Secret"])
def test_which_names_of_headers_pass_and_the_doctor_says_so(
    proxy: Front, programs: Programs, client: httpx.Client, name: str
) -> None:
    values = settings(programs.folder, RECEIVER_PORT=str(proxy.port))
    values["RECEIVER_WEBHOOK_HEADERS"] = json.dumps({name: WEBHOOK_SECRET})
    programs.started += proxy.programs
    with programs.receiver(values) as receiver:
        body = completion("job", NOWHERE, 8, 8)
        assert receiver.deliver(body, {name: WEBHOOK_SECRET}).status_code == 200
        passes = proxy.name != "caddy"  # Caddy 2.11 drops both
        answer = client.post(WEBHOOK, json=body, headers={name: WEBHOOK_SECRET})
        said = doctor(proxy, values, programs.folder)
    assert answer.status_code == (200 if passes else 401)
    assert said.startswith("OK" if passes else "failure")
    assert (f"drops the header {name}, so" in said) == (not passes)


def test_the_doctor_names_the_header_that_an_nginx_with_its_usual_settings_drops(
    programs: Programs, tmp_path: Path
) -> None:
    usual = ("underscores_in_headers on;", "ignore_invalid_headers off;")
    values = settings(programs.folder)
    values["RECEIVER_WEBHOOK_HEADERS"] = json.dumps({"X_Foo": WEBHOOK_SECRET, "X-Bar": "another canary"})
    with front("nginx", tmp_path, *usual) as proxy:
        programs.started += proxy.programs
        values["RECEIVER_PORT"] = str(proxy.port)
        with programs.receiver(values):
            said = doctor(proxy, values, programs.folder)
    assert said.startswith("failure")
    assert "drops the header X_Foo, so" in said


def seconds(name: str, pattern: str) -> list[float]:
    """All values of a setting in a shipped file, as the proxy counts them."""
    text = re.sub(r"#.*", "", (SHIPPED / name).read_text())
    found = re.findall(rf"{pattern}\s*(\d+)(s|m)", text)
    assert found, f"{name}: {pattern}"
    return [int(number) * (60 if unit == "m" else 1) for number, unit in found]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("haproxy.cfg", "timeout client"),
        ("haproxy.cfg", "timeout server"),
        ("nginx.conf", "proxy_read_timeout"),
        ("envoy.yaml", "stream_idle_timeout:"),
    ],
)
def test_a_long_poll_ends_before_the_proxys_patience(name: str, pattern: str) -> None:
    assert all(value > MAX_WAIT for value in seconds(name, pattern))


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("traefik-receiver.yaml", "responseHeaderTimeout:"), ("envoy.yaml", r"\s{12}timeout:")],
)
def test_where_a_proxy_counts_until_the_answer_it_counts_for_ever(name: str, pattern: str) -> None:
    assert 0 in seconds(name, pattern)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("../Caddyfile", "keepalive"),
        ("nginx.conf", "keepalive_timeout"),
        ("traefik-receiver.yaml", "idleConnTimeout:"),
        ("envoy.yaml", r"clusters:[^$]*?\sidle_timeout:"),
    ],
)
def test_a_proxy_ends_idle_connections_before_the_receiver_does(name: str, pattern: str) -> None:
    assert all(value < KEEP_ALIVE_SECONDS for value in seconds(name, pattern))
