"""A provider's completion of a job, independent of the provider's own format; ids and references of jobs.

A job of the provider whose ids are bare is known by the provider's own id, such as ``4f1c``. A job of any
other provider is ``NAME:ID``, such as ``name:4f1c``. Further outputs of one run are jobs of their own:
``NAME:ID~2``, ``NAME:ID~3``. No two of these forms can be the same text, and none can leave a folder or be
taken for an option of a command.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

PROVIDER = r"[a-z][a-z0-9_-]{0,31}"
PROVIDER_ID = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"
BARE_ID = rf"(?!-){PROVIDER_ID}"
BARE_IDS_OF = "ximilar"
"""The provider whose jobs are known by its own ids, because it was the first."""
JOB_ID = rf"{BARE_ID}|{PROVIDER}:{PROVIDER_ID}(?:~(?!1$)[1-9][0-9]{{0,2}})?"
REF = r"[\x20-\x7e]{1,200}"
"""A submitter's reference: 1 to 200 printable ASCII characters."""
MAX_URL = 8192
"""Characters of an image URL."""
MAX_SIDE = 2**31 - 1
"""Pixels."""
MAX_OUTPUTS = 500
"""Outputs of one run. A body with more is refused and kept for an operator."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job has no image: the provider's text or, with a reason of the family ``url``, what is wrong with
    the URL that was named.
    """

    reason: str
    detail: str


@dataclass(slots=True)  # a frozen one takes three times as long to make, and each delivery makes one
class Completion:
    """The end of a job, as the provider reports it; ``width``, ``height``, ``bytes`` and ``content_type`` are
    promised.

    ``id`` is the job's. ``image_url`` is ``None`` with a failure, or if only the provider may say.
    """

    id: str
    image_url: str | None
    source_url: str | None = None
    width: int | None = None
    height: int | None = None
    failure: Failure | None = None
    bytes: int | None = None
    content_type: str | None = None


def _is(pattern: str) -> Callable[[object], TypeGuard[str]]:
    match = re.compile(pattern).fullmatch

    def check(value: object) -> TypeGuard[str]:
        return isinstance(value, str) and match(value) is not None

    return check


is_provider = _is(PROVIDER)
is_job_id = _is(JOB_ID)
"""Whether this can be a job's id in the ledger. It begins with neither a dot nor a dash, so that it can name
a file and be a command's argument."""
is_bare_id = _is(BARE_ID)
is_provider_id = _is(PROVIDER_ID)
"""Whether this can be a provider's own id of a job. It may begin with a dash, because a name stands before
it, but not with a dot: a path of the provider's API could not hold ``..``."""
is_ref = _is(REF)


def split_id(job_id: str) -> tuple[str, int]:
    """Return the provider's own id of a job, and which of its outputs this is."""
    own_id, _, output = job_id.rpartition(":")[2].partition("~")
    return own_id, int(output or 1)


def provider_of(job_id: str) -> str:
    name, colon, _ = job_id.partition(":")
    return name if colon else BARE_IDS_OF
