"""The id of a data directory among those whose receivers share a ledger."""

import os
import secrets
from pathlib import Path

from receiver.core.disk import sync_directory
from receiver.core.errors import LedgerError

NAME = "instance"


def instance_id(data_dir: Path, *, make: bool = True) -> str:
    """Return the id, which is made at the first start; empty where there is none.

    It belongs to the spool beside it: other instances know by it where an image is. Raise
    ``ledger.unavailable`` where it cannot be read or made.
    """
    path = data_dir / NAME
    try:
        if make and not path.exists():
            part = path.with_name(f".{NAME}.part")
            part.unlink(missing_ok=True)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(8) + "\n")
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
            sync_directory(data_dir)
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise LedgerError("ledger.unavailable", f"{path} cannot be used: {error}.") from error
