"""The submitter's own reference of a job."""

import re
from typing import TypeGuard

REF = r"[\x20-\x7e]{1,200}"

_REF = re.compile(REF)


def is_ref(value: object) -> TypeGuard[str]:
    """Whether this can be a submitter's reference: 1 to 200 printable ASCII characters."""
    return isinstance(value, str) and _REF.fullmatch(value) is not None
