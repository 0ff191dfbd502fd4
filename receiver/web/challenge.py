"""Is it this very installation that answers at an address? A challenge that no other one can answer.

The key lies in the data directory, and whoever runs a command beside the server reads it there. It proves
nothing else and opens nothing, so strangers may have as many answers as they like; and nothing secret is sent
to whoever may really stand at the address.
"""

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

CHALLENGE_HEADER = "X-Receiver-Challenge"
PROOF_HEADER = "X-Receiver-Proof"

KEY_NAME = "installation.key"
KEY_BYTES = 32

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{22,64}")
_PURPOSE = b"upscale-receiver.challenge:"


class Challenged:
    """Answers challenges.

    Args:
        key: of this installation.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def prove(self, challenge: str) -> str | None:
        """The answer; ``None`` where this is no challenge."""
        if not _CHALLENGE.fullmatch(challenge):
            return None
        return hmac.digest(self._key, _PURPOSE + challenge.encode("ascii"), hashlib.sha256).hex()


def fresh() -> str:
    """A challenge that nobody has seen."""
    return secrets.token_urlsafe(32)


def installation_key(data_dir: Path) -> bytes:
    """The key of this data directory, made where there is none; the caller holds the directory's lock.

    Where it can be neither read nor written, it is one of this process alone: nothing depends on it but that
    somebody wants to know.
    """
    path = data_dir / KEY_NAME
    try:
        if (found := read_key(data_dir)) is not None:
            return found
        key = secrets.token_bytes(KEY_BYTES)
        part = path.with_suffix(".part")
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 - takes a descriptor
            file.write(key)
        part.replace(path)
    except OSError:
        return secrets.token_bytes(KEY_BYTES)
    return key


def read_key(data_dir: Path) -> bytes | None:
    """The key of this data directory; ``None`` where there is none.

    Raises:
        OSError: it cannot be read.
    """
    try:
        found = (data_dir / KEY_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found if len(found) == KEY_BYTES else None
