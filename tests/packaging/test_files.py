"""What is shipped beside the code: locks, scripts, the container's recipe, the compose file."""

import http.server
import os
import re
import socket
import subprocess
import sysconfig
import threading
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from receiver.config import NO_SETTINGS, SETTINGS, environment, load

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [
    "demo",
    "test",
    "tools/venv",
    "tools/lock",
    "tools/browser",
    ".ci/run",
    "tests/packaging/build-and-run-image",
]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]  # type: ignore[no-any-return]


def names(requirements: list[str]) -> set[str]:
    return {
        re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0].lower().replace("_", "-") for line in requirements
    }


def locked(file: str) -> dict[str, str]:
    """Each locked distribution's version."""
    return dict(
        re.findall(r"^([a-z0-9._-]+)(?:\[[a-z0-9,]+\])?==(\S+)", (ROOT / file).read_text(), re.MULTILINE)
    )


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sysconfig.get_path("scripts")) / name
    return subprocess.run(
        [program, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def test_every_dependency_of_the_project_is_locked() -> None:
    assert names(project()["dependencies"]) <= set(locked("requirements.lock"))
    assert names(project()["optional-dependencies"]["dev"]) <= set(locked("requirements-dev.lock"))


def test_what_is_tested_is_what_is_shipped() -> None:
    shipped, tested = locked("requirements.lock"), locked("requirements-dev.lock")
    assert shipped == {name: version for name, version in tested.items() if name in shipped}


def test_the_wheel_has_every_file_of_the_package() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    package = ROOT / "receiver"
    shipped = {path for pattern in patterns["receiver"] for path in package.glob(pattern)}
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix != ".py"} == shipped


@pytest.mark.parametrize("file", ["requirements.lock", "requirements-dev.lock"])
def test_every_locked_version_has_hashes_and_no_host_is_named(file: str) -> None:
    text = (ROOT / file).read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
    assert "--index-url" not in text


def test_the_shell_scripts_are_clean() -> None:
    found = tool("shellcheck", *SCRIPTS)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)


def test_the_dockerfile_is_clean() -> None:
    found = tool("hadolint", "Dockerfile")
    assert found.returncode == 0, found.stdout


def test_the_container_copies_nothing_that_the_context_leaves_out() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for word in line.split()[:-1]
    }
    assert copied == let_in
    assert all((ROOT / name).exists() for name in let_in)


def test_the_settings_in_the_dockerfile_exist() -> None:
    named = set(re.findall(r"\b(RECEIVER_[A-Z_]+)=", DOCKERFILE))
    assert named
    assert named <= {*SETTINGS, *NO_SETTINGS}


def test_the_container_cannot_be_armed_to_kill_itself() -> None:
    assert "RECEIVER_CONTAINER=1" in DOCKERFILE


def test_the_caddyfile_is_what_caddy_reads(tmp_path: Path) -> None:
    program = Path(sysconfig.get_path("scripts")) / "caddy"
    found = subprocess.run(
        [program, "adapt", "--adapter", "caddyfile", "--config", ROOT / "deploy/Caddyfile", "--validate"],
        env={"HOME": str(tmp_path), "TLS_DOMAIN": "receiver.example.com"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "receiver.example.com" in found.stdout


class Upstream(http.server.BaseHTTPRequestHandler):
    """Stands where the receiver stands, and says so."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(202)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_caddy_itself_acknowledges_nothing_even_where_only_the_webhook_is_let_through(tmp_path: Path) -> None:
    text, cuts = re.subn(
        r"\t# For people:.*?\n\thandle \{.*?\n\t\}\n",
        "",
        (ROOT / "deploy/Caddyfile").read_text(),
        flags=re.DOTALL,
    )
    assert cuts == 1
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with http.server.HTTPServer(("127.0.0.1", 0), Upstream) as upstream:
        serving = threading.Thread(target=upstream.serve_forever)
        serving.start()
        config = tmp_path / "Caddyfile"
        config.write_text(
            "{\n\tadmin off\n}\n" + text.replace("receiver:8080", f"127.0.0.1:{upstream.server_port}")
        )
        with subprocess.Popen(
            [
                Path(sysconfig.get_path("scripts")) / "caddy",
                "run",
                "--adapter",
                "caddyfile",
                "--config",
                config,
            ],
            env={"HOME": str(tmp_path), "TLS_DOMAIN": f"http://127.0.0.1:{port}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as caddy:
            try:
                assert caddy.stderr is not None
                assert any("serving initial configuration" in line for line in caddy.stderr)
                answers = {
                    path: httpx.post(
                        f"http://127.0.0.1:{port}{path}", content=b"{}", trust_env=False
                    ).status_code
                    for path in ("/webhooks/ximilar", "/webhooks/ximilar/", "/webhook/ximilar", "/jobs", "/")
                }
            finally:
                caddy.terminate()
                upstream.shutdown()
                serving.join()

    assert answers == {
        "/webhooks/ximilar": 202,
        "/webhooks/ximilar/": 202,
        "/webhook/ximilar": 404,
        "/jobs": 404,
        "/": 404,
    }


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_every_service_is_confined(service: str) -> None:
    said = COMPOSE["services"][service]
    assert said["read_only"] is True
    assert said["cap_drop"] == ["ALL"]
    assert said["security_opt"] == ["no-new-privileges:true"]
    assert said["image"].partition(":")[2] != "latest"


def test_only_the_receiver_starts_without_a_profile_and_only_on_loopback() -> None:
    services = COMPOSE["services"]
    assert [name for name, said in services.items() if "profiles" not in said] == ["receiver"]
    assert all(port.startswith("127.0.0.1:") for port in services["receiver"]["ports"])


def test_every_volume_of_the_compose_file_is_declared() -> None:
    used = {
        mount.partition(":")[0]
        for said in COMPOSE["services"].values()
        for mount in said.get("volumes", [])
        if not mount.startswith((".", "/"))
    }
    assert used == set(COMPOSE["volumes"])


def test_the_example_of_an_env_file_can_be_uncommented_as_it_stands(tmp_path: Path) -> None:
    text = (ROOT / "deploy/.env.example").read_text()
    env = tmp_path / ".env"
    env.write_text(re.sub(r"^#(?=[A-Z_]+=)", "", text, flags=re.MULTILINE))
    assert re.findall(r"^[^#\s]", text, re.MULTILINE) == [], "everything in it is a choice"
    given = environment({}, env)
    assert "RECEIVER_ARCHIVE" in given
    assert load(given).unknown == ()
