"""Where a ledger is: in a data directory, or in a database that several receivers share."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LedgerLocation:
    """The data directory of this receiver and, if the ledger is in no file there, the database's URL.

    ``instance`` names this receiver among others on the same database.
    """

    data_dir: Path
    url: str | None = field(default=None, repr=False)  # may hold a password
    instance: str = ""
