"""The exercise: the real Litestream copies the ledger, the volume is destroyed, and all is there again."""

import contextlib
import hashlib
import re
import shutil
import sqlite3
import subprocess
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from receiver.ledger import FILE_NAME
from tests.e2e.conftest import SIZE
from tests.sandbox.harness import Neighbour
from tests.support.caddy import free_port
from tests.support.processes import (
    PATIENCE,
    ROOT,
    Program,
    Programs,
    Receiver,
    completion,
    environment,
    run,
    settings,
)
from tests.support.proxy import proxy
from tests.support.seaweed import Seaweed, seaweed

LITESTREAM = f"{sysconfig.get_path('scripts')}/litestream"
CONFIG = ROOT / "deploy/litestream.yml"
COMPOSE: Any = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
EXPLAINED = (ROOT / "docs/operations/backup-and-restore.md").read_text()
BEFORE = [f"before-{number}" for number in range(12)]
AFTER = [f"after-{number}" for number in range(3)]


@pytest.fixture
def store() -> Iterator[Seaweed]:
    with seaweed() as store:
        yield store


class Copy:
    """Litestream with the shipped configuration, and credentials in a file, as in the compose file."""

    def __init__(self, programs: Programs, store: Seaweed) -> None:
        self._programs = programs
        self._folder = programs.folder
        self.data = programs.folder / "data"
        secrets = programs.folder / "aws-credentials"
        secrets.write_text(
            f"[default]\naws_access_key_id = {store.access_key}\naws_secret_access_key = {store.secret_key}\n"
        )
        self.values = {
            "RECEIVER_DATA_DIR": str(self.data),
            "LEDGER_BUCKET": store.bucket,
            "LEDGER_PATH": "ledger",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": store.https_url,
            "AWS_SHARED_CREDENTIALS_FILE": str(secrets),
            "SSL_CERT_FILE": str(store.ca_bundle),
        }
        # The socket for commands is what the test waits by.
        self.config = programs.folder / "litestream.yml"
        self.socket = programs.folder / "litestream.sock"
        self.config.write_text(f"{CONFIG.read_text()}socket:\n  enabled: true\n  path: {self.socket}\n")

    @contextlib.contextmanager
    def running(self) -> Iterator[Program]:
        arguments = [LITESTREAM, "replicate", "-config", str(self.config)]
        with Program("litestream", arguments, self._folder, self.values) as program:
            self._programs.started.append(program)
            program.until(lambda: "replicating to" in program.log)
            program.until(self.socket.exists)
            try:
                yield program
            finally:
                program.kill()
                self.socket.unlink(missing_ok=True)

    def caught_up(self) -> None:
        """Returns when everything that is committed now lies in the bucket."""
        self._run("sync", "-wait", "-socket", str(self.socket), str(self.data / FILE_NAME))

    def restore(self) -> str:
        """What the service `restore` does before the receiver starts."""
        (program, *arguments) = COMPOSE["services"]["restore"]["command"]
        return self._run(program, *(self._here(argument) for argument in arguments))

    def try_it(self, file: Path) -> str:
        """What docs/operations/backup-and-restore.md says to try before it is needed."""
        (line,) = re.findall(r"^docker compose run --rm restore (restore .+)$", EXPLAINED, re.MULTILINE)
        arguments = line.replace("/tmp/trial.sqlite3", str(file)).split()
        return self._run(*(self._here(argument) for argument in arguments))

    def _here(self, argument: str) -> str:
        places = {"/etc/litestream.yml": self.config, "/data/ledger.sqlite3": self.data / FILE_NAME}
        return str(places.get(argument, argument))

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [LITESTREAM, *arguments],
            env=environment(self._folder, self.values),
            capture_output=True,
            text=True,
            timeout=PATIENCE * 2,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


def objects(store: Seaweed) -> dict[str, str]:
    """Each archived object's key, and the SHA-256 of what it holds."""
    client = store.client()
    try:
        found = client.list_objects_v2(Bucket=store.bucket, Prefix="upscaled/").get("Contents", [])
        return {
            each["Key"]: hashlib.sha256(
                client.get_object(Bucket=store.bucket, Key=each["Key"])["Body"].read()
            ).hexdigest()
            for each in found
        }
    finally:
        client.close()


@pytest.mark.timeout(300)
def test_after_the_volume_is_destroyed_nothing_archived_is_lost(
    programs: Programs, store: Seaweed, near: Neighbour, hosted: str
) -> None:
    copy = Copy(programs, store)
    copy.data.mkdir()
    with proxy(store.ports["s3.port.https"]) as way_to_the_store:
        values = settings(
            programs.folder,
            RECEIVER_ARCHIVE=f"s3://{store.bucket}/upscaled",
            **{
                **store.environment(),
                "AWS_ENDPOINT_URL_S3": f"https://127.0.0.1:{way_to_the_store.port}",
            },
        )
        assert "no matching backups found" in copy.restore()  # the very first start: there is nothing yet
        with programs.receiver_process(values) as receiver:
            with copy.running():
                for job_id in BEFORE:
                    assert receiver.deliver(completion(job_id, hosted, *SIZE)).status_code == 200
                jobs = {job_id: receiver.ended(job_id) for job_id in BEFORE}
                # One image lies on our disk alone, and another one is not even there yet.
                way_to_the_store.down.set()
                way_to_the_store.close()
                assert receiver.deliver(completion("spooled", hosted, *SIZE)).status_code == 200
                receiver.program.until_event("fetched", job="spooled")
                near.gate = threading.Event()
                assert receiver.deliver(completion("waiting", hosted, *SIZE)).status_code == 200
                copy.caught_up()
                trial = programs.folder / "trial.sqlite3"
                copy.try_it(trial)
                with contextlib.closing(sqlite3.connect(trial)) as db:
                    assert db.execute("SELECT count(*) FROM jobs").fetchone() == (len(BEFORE) + 2,)
            # Litestream is dead, as in the last second of a machine: this is what can be lost.
            for job_id in AFTER:
                assert receiver.deliver(completion(job_id, hosted, *SIZE)).status_code == 200
            receiver.program.kill()

        there = objects(store)
        assert len(there) == len(BEFORE)
        shutil.rmtree(copy.data)
        copy.data.mkdir()
        near.gate.set()
        way_to_the_store.down.clear()

        copy.restore()
        with programs.receiver(values) as again:
            restored = {job_id: again.job(job_id)["archive"] for job_id in BEFORE}
            assert restored == {job_id: job["archive"] for job_id, job in jobs.items()}
            # Fetched anew, since their URLs still live.
            assert again.ended("spooled")["state"] == "archived"
            assert again.ended("waiting")["state"] == "archived"
            lost = {job_id for job_id in AFTER if again.get(f"/jobs/{job_id}").status_code == 404}
            assert lost == set(AFTER), "and nothing else"
            # What is delivered or asked for once more is whole again.
            for job_id in lost:
                again.deliver(completion(job_id, hosted, *SIZE))
                assert again.ended(job_id)["state"] == "archived"
            assert again.program.stop()[0] == 0

    now = objects(store)
    assert there.items() <= now.items()
    assert len(now) == len(BEFORE) + 2 + len(AFTER)
    assert "database already exists" in copy.restore()  # a volume that has a ledger is left alone


def test_a_ledger_that_was_copied_is_served_from_again(
    programs: Programs, store: Seaweed, hosted: str
) -> None:
    values = settings(programs.folder)
    copy = Copy(programs, store)
    for round_ in range(2):
        with programs.receiver(values) as receiver, copy.running():
            assert receiver.deliver(completion(f"round-{round_}", hosted, *SIZE)).status_code == 200
            assert receiver.ended(f"round-{round_}")["state"] == "archived"
            copy.caught_up()
            assert receiver.program.stop()[0] == 0
    with contextlib.closing(sqlite3.connect(copy.data / FILE_NAME)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
    assert "_litestream_seq" in tables


def test_a_backup_that_is_put_back_beside_litestream_is_copied_on(
    programs: Programs, store: Seaweed, hosted: str
) -> None:
    values = settings(programs.folder)
    copy = Copy(programs, store)
    backup = programs.folder / "backup.sqlite3"
    job_ids = ["before", "since", "after"]

    def archive(receiver: Receiver, job_id: str) -> None:
        assert receiver.deliver(completion(job_id, hosted, *SIZE)).status_code == 200
        assert receiver.ended(job_id)["state"] == "archived"
        copy.caught_up()

    with programs.receiver(values) as receiver, copy.running():
        archive(receiver, "before")
        assert run(["backup", str(backup)], programs.folder, values).returncode == 0
        archive(receiver, "since")
    for file in copy.data.glob(f"{FILE_NAME}*"):
        file.unlink()
    shutil.copy(backup, copy.data / FILE_NAME)
    assert "database already exists" in copy.restore()
    with programs.receiver(values) as receiver, copy.running():
        assert run(["rebuild"], programs.folder, values).returncode == 0
        archive(receiver, "after")
        copy.try_it(programs.folder / "trial.sqlite3")
    with contextlib.closing(sqlite3.connect(programs.folder / "trial.sqlite3")) as db:
        assert db.execute("SELECT id, state FROM jobs").fetchall() == [(name, "archived") for name in job_ids]


def test_the_metrics_of_litestream_that_an_alert_rests_on_are_there(
    programs: Programs, store: Seaweed
) -> None:
    copy = Copy(programs, store)
    port = free_port()
    copy.values["LITESTREAM_ADDR"] = f"127.0.0.1:{port}"
    with programs.receiver(settings(programs.folder)), copy.running():
        copy.caught_up()
        page = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).raise_for_status().text
    rules = (ROOT / "deploy/prometheus/rules.yaml").read_text()
    asked = re.findall(r"\b(litestream_\w+)(?:\{(.*?)\})?\[", rules)
    assert len(asked) == 3
    for name, label in asked:
        (found,) = re.findall(rf"^{name}\{{(.*?)\}} [1-9]?\d", page, re.MULTILINE)
        assert label in found


def test_litestream_listens_where_it_is_told_to_and_nowhere_else(programs: Programs, store: Seaweed) -> None:
    """Its profiles stand on the port of its metrics, and without containers that would be the open one."""
    copy = Copy(programs, store)
    with programs.receiver(settings(programs.folder)), copy.running() as program:
        copy.caught_up()
        assert "serving metrics" not in program.log
    (service,) = (each for each in COMPOSE["services"].values() if "LITESTREAM_ADDR" in str(each))
    assert service["environment"]["LITESTREAM_ADDR"] == ":9090"
    assert "ports" not in service


def test_litestream_has_an_sqlite_without_the_fault() -> None:
    """It checkpoints beside the receiver, so both need one."""
    said = subprocess.run([LITESTREAM, "version"], capture_output=True, text=True, check=True).stdout.strip()
    image = COMPOSE["services"]["litestream"]["image"]
    assert image.partition("@")[0] == f"litestream/litestream:{said}", "as tested"
    source = Path(LITESTREAM).read_bytes()
    # SQLite's own source id, whose date tells the version: 3.51.3 is of 2026-03-13.
    dates = re.findall(rb"(20\d\d-\d\d-\d\d) \d\d:\d\d:\d\d [0-9a-f]{64}", source)
    assert dates
    assert max(dates).decode() >= "2026-03-13"
