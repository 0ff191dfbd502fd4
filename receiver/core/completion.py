"""A provider's completion of a job, independent of the provider's own format."""

import re
from dataclasses import dataclass
from typing import TypeGuard

JOB_ID = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
MAX_URL = 8192
"""Characters of an image URL."""
MAX_SIDE = 2**31 - 1
"""Pixels."""

_ID = re.compile(JOB_ID)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job has no image.

    Attributes:
        reason: ``provider.job_failed`` or ``provider.record_failed``.
        detail: the provider's code and text.
    """

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Completion:
    """The end of a job, as the provider reports it.

    Attributes:
        id: the provider's id of the job.
        image_url: of the upscaled image; ``None`` if the job failed, or if only the provider may say.
        source_url: of the submitted image, where it was a URL.
        width: promised pixels of the upscaled image; ``None`` where nothing is promised.
        height: as width.
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
    return isinstance(value, str) and _ID.fullmatch(value) is not None
