"""A provider's completion of a job, independent of the provider's own format; ids and references of jobs."""

import re
from dataclasses import dataclass
from typing import TypeGuard

JOB_ID = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
REF = r"[\x20-\x7e]{1,200}"
MAX_URL = 8192
"""Characters of an image URL."""
MAX_SIDE = 2**31 - 1
"""Pixels."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job has no image: ``provider.job_failed`` or ``provider.record_failed``; the provider's text."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Completion:
    """The end of a job, as the provider reports it; ``width`` and ``height`` are the promised pixels.

    ``image_url`` is ``None`` if the job failed, or if only the provider may say.
    """

    id: str
    image_url: str | None
    source_url: str | None = None
    width: int | None = None
    height: int | None = None
    failure: Failure | None = None


def is_job_id(value: object) -> TypeGuard[str]:
    """Whether this can be a job's id: 1 to 128 letters, digits, dots, dashes and underscores.

    It begins with neither a dot nor a dash, so that it can name a file and be a command's argument.
    """
    return isinstance(value, str) and re.fullmatch(JOB_ID, value) is not None


def is_ref(value: object) -> TypeGuard[str]:
    """Whether this can be a submitter's reference: 1 to 200 printable ASCII characters."""
    return isinstance(value, str) and re.fullmatch(REF, value) is not None
