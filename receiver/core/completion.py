"""What a provider says when a job has ended, in the product's own words."""

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
    """The provider's own words for a job that gave no image.

    Attributes:
        reason: ``provider.job_failed`` or ``provider.record_failed``.
        detail: the provider's code and text.
    """

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Completion:
    """What the provider says when a job has ended.

    Attributes:
        id: the provider's id of the job.
        image_url: where the upscaled image lies; ``None`` if the job failed, or if only the provider may say.
        source_url: the image that was submitted, where it was a URL.
        width: pixels of the upscaled image, as promised; ``None`` where nothing is promised.
        height: likewise.
        failure: why there is no image.
    """

    id: str
    image_url: str | None
    source_url: str | None = None
    width: int | None = None
    height: int | None = None
    failure: Failure | None = None


def is_job_id(value: object) -> TypeGuard[str]:
    """Whether this can be a job's id: 1 to 128 letters, digits, dots, dashes and underscores.

    Neither a dot nor a dash comes first, so that an id is a plain name for a file and an argument.
    """
    return isinstance(value, str) and _ID.fullmatch(value) is not None
