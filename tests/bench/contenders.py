"""The contenders of the benchmark. Each archives the same images in the same store."""

import asyncio
import itertools
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.footprint import cpu_seconds, watched
from tests.support.caddy import free_port
from tests.support.load import deliver
from tests.support.processes import Output, Program, Programs, environment, settings

CONNECTIONS = 16
"""Over which completions are delivered."""

PATIENCE = 600.0
"""Seconds for one run."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a contender has to do.

    Attributes:
        bodies: the completions, by job.
        urls: of the images, by job.
        warm_up: so many of the jobs come first, and are not measured.
        store: the bucket's environment.
        bucket: its name.
        prefix: in which the objects must stand, under any folder, named by job and format.
        authority: whom to trust.
        folder: of the contender alone.
    """

    bodies: Mapping[str, dict[str, Any]]
    urls: Mapping[str, str]
    warm_up: int
    store: Mapping[str, str]
    bucket: str
    prefix: str
    authority: Path
    folder: Path


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run: seconds, and bytes at the peak."""

    cpu: float
    wall: float
    memory: int


@dataclass
class _Lines:
    """Counts lines that hold a text, each line once."""

    output: Output
    text: str
    seen: int = field(default=0)
    found: int = field(default=0)

    def reach(self, count: int) -> None:
        def enough() -> bool:
            new = self.output.lines[self.seen :]
            self.seen += len(new)
            self.found += sum(self.text in line for line in new)
            return self.found >= count

        self.output.until(enough, PATIENCE)


def receiver(work: Work) -> Cost:
    values = settings(
        work.folder,
        RECEIVER_ARCHIVE=f"s3://{work.bucket}/{work.prefix}",
        SSL_CERT_FILE=str(work.authority),
        **work.store,
    )
    with Programs(work.folder).receiver_process(values, cold=True) as server:
        return _delivered(work, server.program, server.port, '"archived"')


def tutorial(work: Work) -> Cost:
    port = free_port()
    arguments = [sys.executable, "-m", "uvicorn", f"--port={port}", "tests.bench.tutorial:app"]
    values = {
        "BUCKET": work.bucket,
        "PREFIX": work.prefix,
        "REQUESTS_CA_BUNDLE": str(work.authority),
        **work.store,
    }
    with Program("tutorial", arguments, work.folder, values) as server:
        server.until(lambda: "running on" in server.log)
        return _delivered(work, server, port, "archived ")


def _delivered(work: Work, server: Program, port: int, line: str) -> Cost:
    """The cost from the first delivery to the last image, for each of which the server writes a line."""
    archived, jobs = _Lines(server, line), iter(work.bodies.items())

    def hand_over(count: int) -> None:
        answers = asyncio.run(deliver(port, dict(itertools.islice(jobs, count)), CONNECTIONS))
        assert answers.statuses == {200: count}, answers.statuses

    hand_over(work.warm_up)
    archived.reach(work.warm_up)
    with watched(server.pid) as peak:
        cpu, wall = cpu_seconds(server.pid), time.perf_counter()
        hand_over(len(work.bodies) - work.warm_up)
        archived.reach(len(work.bodies))
        wall, cpu = time.perf_counter() - wall, cpu_seconds(server.pid) - cpu
    return Cost(cpu, wall, peak.bytes)


def programs(work: Work) -> Cost:
    """curl gets all images and then s5cmd stores them: no server, no queue, and no image is looked at."""
    urls = iter(work.urls.values())
    _scripted(work, itertools.islice(urls, work.warm_up))
    return _scripted(work, urls)


def _scripted(work: Work, urls: Iterable[str]) -> Cost:
    curl = "curl --no-progress-meter --fail --parallel --parallel-max 16 --remote-name-all"
    s5cmd = f"{sysconfig.get_path('scripts')}/s5cmd --log error"
    script = f"""
        {curl} --cacert {work.authority} --output-dir images --config urls &&
        {s5cmd} --endpoint-url {work.store["AWS_ENDPOINT_URL_S3"]} cp 'images/*' s3://{work.bucket}/{work.prefix}/
    """
    with tempfile.TemporaryDirectory(dir=work.folder) as folder:
        (Path(folder) / "images").mkdir()
        (Path(folder) / "urls").write_text("".join(f'url = "{url}"\n' for url in urls))
        wall = time.perf_counter()
        values = {**environment(work.folder, work.store), "SSL_CERT_FILE": str(work.authority)}
        shell = subprocess.Popen(["sh", "-c", script], cwd=folder, env=values)
        with watched(shell.pid) as peak:
            os.waitid(os.P_PID, shell.pid, os.WEXITED | os.WNOWAIT)  # a zombie, whose time can still be read
            wall, cpu = time.perf_counter() - wall, cpu_seconds(shell.pid)
        assert shell.wait() == 0
    return Cost(cpu, wall, peak.bytes)


CONTENDERS: Mapping[str, Callable[[Work], Cost]] = {
    "tutorial": tutorial,
    "receiver": receiver,
    "curl + s5cmd": programs,
}
