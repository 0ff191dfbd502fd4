import ast
import inspect
import json
import os
import signal
import ssl
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path

import httpx
import pytest
import trustme
import typer
from PIL import Image

import receiver
import receiver.sandbox
from receiver.cli.sandbox import options_of, sandbox, seconds
from receiver.sandbox.faults import GROUPS
from receiver.sandbox.options import Options
from receiver.sandbox.pictures import SAMPLES, draw
from receiver.sandbox.server import run
from tests.support.processes import command
from tests.support.processes import run as run_command

SANDBOX = command("sandbox")

TOKEN = {"Authorization": "Token from-the-environment"}


@contextmanager
def process(tmp_path: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    environment = os.environ | {"XIMILAR_API_TOKEN": "from-the-environment", "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [*SANDBOX, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(receiver.__path__[0]).parent,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_the_command_announces_its_port_serves_and_leaves_nothing_behind(tmp_path: Path, end: int) -> None:
    with process(tmp_path, "--port", "0", "--delay", "0") as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        assert line.startswith("sandbox listens on http://127.0.0.1:")
        url = line.split()[-1] + "/account/v2/request"
        assert httpx.get(url, headers=TOKEN, trust_env=False).json()["count"] == 0
        assert httpx.get(url, headers={"Authorization": "Token x"}, trust_env=False).status_code == 401
        assert list(tmp_path.glob("sandbox-*"))
        running.send_signal(end)
        rest, errors = running.communicate(timeout=30)
        assert (running.returncode, rest) == (0, ""), errors
        assert "Traceback" not in errors
        assert not list(tmp_path.iterdir())


def test_the_command_speaks_json_and_takes_its_switches(tmp_path: Path) -> None:
    with process(tmp_path, "--port", "0", "--json", "--throttle", "1", "--retry-after", "9") as running:
        assert running.stdout is not None
        url = json.loads(running.stdout.readline())["url"]
        answer = httpx.get(f"{url}/account/v2/request", headers=TOKEN, trust_env=False)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "9")


def test_the_command_announces_the_secret_that_it_made_and_not_one_that_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freepik = ("--provider", "freepik", "--port", "0")
    with process(tmp_path, *freepik) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("sandbox listens on ")
        assert running.stdout.readline().startswith("it signs with ")
    with process(tmp_path, *freepik, "--json", "--two-keys") as running:
        assert running.stdout is not None
        assert len(set(json.loads(running.stdout.readline())["secrets"])) == 2
    monkeypatch.setenv("FREEPIK_WEBHOOK_SECRET", "given, and another")
    with process(tmp_path, *freepik, "--json") as running:
        assert running.stdout is not None
        assert json.loads(running.stdout.readline())["secrets"] == []


@pytest.mark.parametrize(
    ("arguments", "text", "status"),
    [
        (["--host", "0.0.0.0"], "loopback", 2),
        (["--delay", "soon"], "no time", 2),
        (["--cut", "0.6", "--html", "0.6"], "together more than 1", 2),
        (["--drop", "1.5"], "drop", 2),
        (["--video", "0.5"], "ximilar has no fault video", 2),
        (["--provider", "fal", "--aborted", "0.5"], "fal has no fault aborted", 2),
        (["--provider", "replicate", "--secret", "no base64!"], "whsec_", 2),
        (["--ca", "gone.pem"], "gone.pem is no file of certificates", 2),
    ],
)
def test_wrong_usage_is_refused_in_words(
    tmp_path: Path, arguments: list[str], text: str, status: int
) -> None:
    ended = run_command(["sandbox", "--port", "0", *arguments], tmp_path, {})
    assert ended.returncode == status
    assert text in " ".join(ended.stderr.split())
    assert ended.stdout == ""


class Webhook(BaseHTTPRequestHandler):
    """Takes one delivery."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("trusts", [True, False], ids=["with --ca", "without"])
def test_a_delivery_over_tls_needs_an_authority_that_is_trusted(tmp_path: Path, trusts: bool) -> None:  # noqa: FBT001 - parametrized
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    record = {"_base64": b64encode(SAMPLES[0].draw()).decode()}
    with HTTPServer(("127.0.0.1", 0), Webhook) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        serving = threading.Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        more = ["--ca", str(tmp_path / "ca.pem")] if trusts else []
        try:
            with process(tmp_path, "--port", "0", "--delay", "0", *more) as running:
                assert running.stdout is not None
                assert running.stderr is not None
                url = running.stdout.readline().split()[-1] + "/account/v2/request"
                webhook = {"endpoint": f"https://localhost:{server.server_port}/webhooks/ximilar"}
                job = {"type": "upscaler", "endpoint": "upscale_2x", "records": [record], "webhook": webhook}
                httpx.post(url, headers=TOKEN, json=job, trust_env=False).raise_for_status()
                said = next(line for line in running.stderr if "completion" in line)
        finally:
            server.shutdown()
            serving.join()
    assert ("answered with 200" if trusts else "completion lost") in said


def test_a_port_that_is_taken_ends_in_one_line(tmp_path: Path) -> None:
    with process(tmp_path, "--port", "0") as first:
        assert first.stdout is not None
        port = first.stdout.readline().rsplit(":", 1)[-1].strip()
        with process(tmp_path, "--port", port) as second:
            _, errors = second.communicate(timeout=30)
            assert second.returncode == 1
            assert errors.count("\n") == 1
            assert "Address already in use" in errors
            assert port in errors


def test_run_refuses_to_listen_elsewhere_than_on_loopback() -> None:
    with pytest.raises(ValueError, match="loopback"):
        run(Options(), host="192.0.2.1")


def test_the_command_has_a_switch_for_every_fault_and_every_fault_a_share() -> None:
    names = [fault.value for group in GROUPS for fault in group]
    assert set(names) <= set(inspect.signature(sandbox).parameters)
    for group in GROUPS:
        for fault in group:
            provider = max(fault.providers)
            faults = options_of({**dict.fromkeys(names, 0.0), fault.value: 0.5, "provider": provider}).faults
            assert [each for each in group if faults.share(each)] == [fault]


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("1.5", 1.5), ("250ms", 0.25), ("30s", 30), ("10m", 600), ("24h", 86400), ("2d", 172800)],
)
def test_times_are_read_with_and_without_units(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "-1", "h", "1w", "1 2", "nan"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        seconds(text)


def test_the_sandbox_imports_nothing_of_the_receivers_own() -> None:
    folder = Path(inspect.getfile(receiver.sandbox)).parent
    imported = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                imported.add(node.module or "")
    assert "receiver.sandbox.options" in imported
    ours = {name for name in imported if name.split(".")[0] == "receiver"}
    assert {name for name in ours if not f"{name}.".startswith("receiver.sandbox.")} == set()


def test_samples_differ_in_format_size_and_factor_and_are_what_they_say() -> None:
    assert len(SAMPLES) >= 6
    assert len({(sample.width, sample.height) for sample in SAMPLES}) == len(SAMPLES)
    assert {sample.factor for sample in SAMPLES} == {2, 4, 8}
    for sample in SAMPLES:
        with Image.open(BytesIO(sample.draw())) as picture:
            picture.load()
            assert picture.size == (sample.width, sample.height)
            assert (
                picture.format == {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[sample.format.split("-")[0]]
            )
            assert ("A" in picture.mode) == sample.format.endswith("alpha")


def test_pictures_are_alike_for_one_seed_and_differ_for_two() -> None:
    assert draw(1, (64, 48), "png") == draw(1, (64, 48), "png") != draw(2, (64, 48), "png")
