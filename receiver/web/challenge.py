"""Proves that an address leads to this very installation, and shows which headers arrive there.

The key lies in the data directory, where a command that runs beside the server reads it. It proves nothing
else and opens nothing, so anyone may have any number of proofs; and nothing secret is sent to whatever
program really answers at the address.

Proxies drop headers whose names they do not like, and say so nowhere. A header arrived if it brought the
challenge as its value. That is said to anyone, because it depends on no setting of this installation.
"""

import hashlib
import hmac
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from starlette.datastructures import Headers

CHALLENGE_HEADER = "X-Receiver-Challenge"
PROOF_HEADER = "X-Receiver-Proof"
ARRIVED_HEADER = "X-Receiver-Arrived"
"""The names of the headers whose value is the challenge, in lower case."""

MAX_ARRIVED = 2000
"""Characters: a proxy takes an answer with a head of some KiB for a fault of the receiver."""

KEY_NAME = "installation.key"
KEY_BYTES = 32

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{22,64}")
_PURPOSE = b"upscale-receiver.challenge:"


def new_challenge() -> str:
    return secrets.token_urlsafe(32)


def prove(key: bytes, challenge: str) -> str | None:
    """Return the proof for a challenge, or ``None`` where the text is no challenge."""
    if not _CHALLENGE.fullmatch(challenge):
        return None
    return hmac.digest(key, _PURPOSE + challenge.encode("ascii"), hashlib.sha256).hex()


def answer_challenge(key: bytes, headers: Headers) -> dict[str, str]:
    """Return the headers that answer a request's challenge; none where it has none."""
    challenge = headers.get(CHALLENGE_HEADER, "")
    proof = prove(key, challenge)
    if proof is None:
        return {}
    arrived = ", ".join(name for name, value in headers.items() if value == challenge)
    return {PROOF_HEADER: proof, ARRIVED_HEADER: arrived[:MAX_ARRIVED]}


def installation_key(data_dir: Path) -> bytes:
    """Return the key of a data directory, whose lock the caller holds; make one where there is none.

    Where the key can be neither read nor written, the process gets one of its own: only the proof depends on
    it.
    """
    path, key = data_dir / KEY_NAME, secrets.token_bytes(KEY_BYTES)
    with suppress(OSError):
        if (found := read_key(data_dir)) is not None:
            return found
        part = path.with_suffix(".part")
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 - takes a descriptor
            file.write(key)
        part.replace(path)
    return key


def read_key(data_dir: Path) -> bytes | None:
    """Return the key of a data directory, or ``None`` where there is none. Raise `OSError` if unreadable."""
    try:
        found = (data_dir / KEY_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found if len(found) == KEY_BYTES else None
