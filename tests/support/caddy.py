"""The real Caddy before a receiver, with our Caddyfile and certificates of its own authority."""

import contextlib
import os
import random
import socket
import ssl
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import PATIENCE, ROOT, Program

CADDYFILE = ROOT / "deploy/Caddyfile"
PROGRAM = f"{sysconfig.get_path('scripts')}/caddy"


@dataclass(frozen=True)
class Caddy:
    """Where it listens, and whom to trust there."""

    program: Program
    port: int
    authority: Path

    @property
    def address(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))


@contextlib.contextmanager
def caddy(
    folder: Path, upstream: str, *, caddyfile: str | None = None, receivers: str = "one"
) -> Iterator[Caddy]:
    """Runs it until the block ends.

    Args:
        folder: for its certificates.
        upstream: the receiver's host and port.
        caddyfile: another text than the one that is shipped.
        receivers: ``several``, where upstream names more than one.
    """
    folder.mkdir(exist_ok=True)
    text = CADDYFILE.read_text() if caddyfile is None else caddyfile
    # The shipped file, but it asks nobody for a certificate, and keeps off ports 80 and 443.
    text = text.replace(
        "\tadmin off\n",
        "\tadmin off\n\tauto_https disable_redirects\n\tlocal_certs\n",
        1,
    )
    (folder / "Caddyfile").write_text(text)
    port = free_port()
    program = Program(
        "caddy",
        [PROGRAM, "run", "--adapter=caddyfile", f"--config={folder}/Caddyfile"],
        folder,
        {
            "TLS_DOMAIN": f"https://localhost:{port}",
            "RECEIVER_UPSTREAM": upstream,
            "RECEIVERS": receivers,
            "XDG_DATA_HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
            "PATH": os.environ.get("PATH", ""),
        },
    )
    authority = folder / "caddy/pki/authorities/local/root.crt"
    with program:
        program.until(lambda: "certificate obtained successfully" in program.log)
        program.until(lambda: "serving initial configuration" in program.log)
        it = Caddy(program, port, authority)
        _until_it_shows_its_certificate(it)
        yield it


def _until_it_shows_its_certificate(door: Caddy) -> None:
    """Which is a moment after it says that it has it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with (
                socket.create_connection(("127.0.0.1", door.port), timeout=PATIENCE) as bare,
                door.trust.wrap_socket(bare, server_hostname="localhost"),
            ):
                return
        except (ssl.SSLError, ConnectionError):
            assert time.monotonic() < deadline, door.program.log


def free_port() -> int:
    """A port that nobody listens on, and that Linux gives nobody by itself until it is used."""
    while True:
        port = random.randrange(10_100, 11_900)  # below those of SeaweedFS, too
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
