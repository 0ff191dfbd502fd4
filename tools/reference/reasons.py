"""The page of reasons, from ``REASONS``."""

from itertools import groupby

from receiver.core.errors import REASONS
from receiver.web.problem import STATUS
from tools.reference.markdown import code, table

FAMILIES = {
    "auth": "The sender or the client is not proved",
    "body": "The request cannot be read",
    "provider": "The provider refuses, or does not answer",
    "url": "The image URL is not allowed",
    "fetch": "The image did not come",
    "image": "What came is not the promised image",
    "archive": "The archive did not take or prove the object, or the audit found a fault",
    "ledger": "The ledger cannot be used, or does not allow it",
    "spool": "The receiver's own disk",
}


def page() -> str:
    """Return the page."""
    parts: list[str] = []
    if missing := {reason.partition(".")[0] for reason in REASONS} - FAMILIES.keys():
        raise ValueError(f"tools/reference/reasons.py: FAMILIES has no title of {missing}")
    for family, found in groupby(REASONS.items(), lambda item: item[0].partition(".")[0]):
        rows = [(code(reason), str(STATUS.get(reason, "")), meaning) for reason, meaning in found]
        parts += [f"## `{family}.*`", f"{FAMILIES[family]}.", table(("reason", "status", "meaning"), rows)]
    return "\n\n".join(part.strip() for part in parts)
