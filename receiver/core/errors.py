"""The exception tree, and every ``reason`` with a sentence.

    ConfigError          a setting is missing or wrong; the start stops
    ReceiverError        everything else, with a reason
    ├── AuthError        auth.*      the sender or the client is not authenticated
    ├── BodyError        body.*      the request cannot be read
    ├── ProviderError    provider.*  the provider refuses or does not answer
    │   ├── TokenRefusedError        it refuses the token
    │   ├── NoCreditsError           the account has no credits left
    │   ├── RateLimitedError         it asks for fewer requests
    │   ├── UnknownJobError          it knows no such job
    │   ├── InvalidRequestError      it refuses the request as invalid
    │   └── UnavailableError         it does not answer, or not readably
    ├── UrlError         url.*       the image may not be fetched from there
    ├── FetchError       fetch.*     the download failed
    ├── ImageError       image.*     the bytes are not the promised image
    ├── ArchiveError     archive.*   the object was not archived, or not proved
    ├── LedgerError      ledger.*    the ledger cannot be written, or its state forbids it
    └── SpoolError       spool.*     our own disk is full, or failed

Each package translates the errors of its libraries into this tree, so that callers need not know the
libraries.
"""

from collections.abc import Mapping
from typing import ClassVar

REASONS: Mapping[str, str] = {
    "auth.refused": "The headers do not prove the sender of this body.",
    "auth.keys_unavailable": "The keys that prove the provider's deliveries cannot be had just now.",
    "auth.cross_origin": "A browser sent the request from a page of another site.",
    "auth.token_refused": "The request carries no valid API token.",
    "body.too_large": "The body is larger than RECEIVER_MAX_WEBHOOK_BYTES.",
    "body.bad_request": "The request is not valid HTTP.",
    "body.head_too_large": "The request's headers are too many or too long.",
    "body.not_json": "The body is not JSON.",
    "body.not_a_completion": "The body is JSON, but no completion of an upscaling job.",
    "body.unsupported_type": "The declared content type is not JSON.",
    "body.not_allowed": "The route does not take this method.",
    "body.no_such_route": "There is nothing at this path.",
    "body.invalid_query": "A query parameter is unknown or has a value that it cannot have.",
    "body.invalid": "The body of the request does not have the form that this route takes.",
    "body.too_slow": "The sender took too long to send the body.",
    "body.cut_short": "The sender disconnected before the body was whole.",
    "provider.job_failed": "The provider reports that the job failed.",
    "provider.record_failed": "The provider reports that the job's one record failed.",
    "provider.no_output": "The provider reports that the job ended well, and names no such output.",
    "provider.unknown_job": "The provider knows no job of this id.",
    "provider.token_refused": "The provider refuses the token.",
    "provider.no_credits": "The provider's account has no credits left.",
    "provider.rate_limited": "The provider asks for fewer requests.",
    "provider.invalid_request": "The provider refuses the request as invalid.",
    "provider.unavailable": "The provider does not answer, or its answer cannot be read.",
    "url.malformed": "The image URL is no plain http(s) URL.",
    "url.scheme": "The image URL is not https, and its host is not in RECEIVER_IMAGE_NETWORKS.",
    "url.userinfo": "The image URL carries a user name or a password.",
    "url.port": "The image URL names a port that is not allowed.",
    "url.source": "The image URL is under none of RECEIVER_IMAGE_SOURCES.",
    "url.address": "The image's host has an address that is not public.",
    "url.redirects": "The image URL redirects more often than is followed.",
    "fetch.resolve": "The image's host name could not be resolved.",
    "fetch.connect": "The image's host could not be reached.",
    "fetch.tls": "The image's host did not prove its name.",
    "fetch.protocol": "The image's host broke the HTTP protocol.",
    "fetch.timeout": "The download did not end in time.",
    "fetch.too_slow": "The download fell below RECEIVER_LEAST_RATE.",
    "fetch.cut_short": "The connection ended before the image was whole.",
    "fetch.empty": "The answer had no body.",
    "fetch.gone": "The image URL answers that it is not valid any more.",
    "fetch.status": "The image URL answers with an error.",
    "fetch.too_large": "The image is larger than RECEIVER_MAX_IMAGE_BYTES.",
    "fetch.encoded": "The answer has a Content-Encoding that does not decode to an image.",
    "fetch.unexpected": "An error of the receiver itself ended the download.",
    "fetch.expired": "The image URL's life ended before the image was safe.",
    "fetch.trial_ended": "The test delivery ended before its picture was safe.",
    "image.unknown_format": "The bytes are no JPEG, PNG or WebP.",
    "image.truncated": "The image ends before its end mark.",
    "image.corrupt": "The image's structure or pixels are damaged.",
    "image.trailing_data": "There is data after the image's end mark.",
    "image.polyglot": "The image holds data that another program would open as a file of its own kind.",
    "image.animated": "The file holds more than one frame.",
    "image.wrong_size": "Width, height or bytes are not the promised ones.",
    "image.wrong_type": "The image is of another format than was promised.",
    "image.too_many_pixels": "The image has more pixels than RECEIVER_MAX_IMAGE_PIXELS.",
    "image.undecodable": "The image needs more memory or time to decode than it is given.",
    "archive.unavailable": "The archive does not answer, or asks to come back later.",
    "archive.denied": "The archive refuses the credentials or lacks a right.",
    "archive.no_bucket": "The archive's bucket or folder does not exist.",
    "archive.misconfigured": "The archive refuses because of a wrong setting.",
    "archive.refused": "The archive refuses this one object, for its key or its metadata.",
    "archive.clock_skew": "This machine's clock is too far from the archive's.",
    "archive.full": "The archive has no room.",
    "archive.too_large": "The archive does not take an object of this size.",
    "archive.occupied": "Another object, with other bytes, stands at the job's key.",
    "archive.unproved": "The archive did not confirm the bytes that were sent.",
    "archive.unexpected": "An error of the receiver itself ended the upload.",
    "archive.missing": "The archived object is not there.",
    "archive.altered": "The archived object holds other bytes than were archived.",
    "archive.unreadable": "A file or folder of the archive cannot be read, or is no regular file.",
    "archive.mislabelled": "The archived object's metadata are not those of its job.",
    "archive.duplicate": "The archive holds another object of a job that is archived elsewhere.",
    "archive.crowded": "Two selections of images are being sent already; try again when one has ended.",
    "archive.foreign": "The archive holds an object that belongs to no job of the ledger.",
    "ledger.unavailable": "The ledger cannot be written.",
    "ledger.overloaded": "Too many deliveries wait for the ledger.",
    "ledger.crowded": "Too many clients wait for changes.",
    "ledger.stopping": "The receiver is shutting down.",
    "ledger.corrupt": "The ledger is damaged.",
    "ledger.newer": "The ledger was written by a newer version.",
    "ledger.in_use": "Another process serves from this data directory, or under this instance's name.",
    "ledger.instance_dead": "The image is on the disk of an instance that does not run.",
    "ledger.unknown_job": "There is no job of this id.",
    "ledger.wrong_state": "The job's state does not allow this.",
    "ledger.forgotten": "An operator gave up a job of which nothing had been received.",
    "ledger.other_url": "A later delivery named another image URL; the first one stands.",
    "spool.full": "The spool, or the disk that it lies on, has no room for another download.",
    "spool.disk": "The spool's disk cannot be written or read.",
    "spool.lost": "A spooled image vanished or changed before it was archived.",
    "spool.no_decoder": "The process that decodes images cannot be started.",
}
"""Every reason in HTTP answers, the ledger, log lines and metrics."""


class ReceiverError(Exception):
    """The base of all errors that the program raises on purpose.

    ``detail`` is a sentence for the operator: what happened, to what, what to do. Never a secret.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        if reason not in REASONS:
            raise ValueError(f"no such reason: {reason}")
        self.reason = reason
        self.detail = detail or REASONS[reason]
        super().__init__(reason, self.detail)  # these arguments make it again from a child process's pickle

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class ConfigError(Exception):
    """A setting is missing or wrong. Its text is one line that names the setting and never its value."""


class AuthError(ReceiverError):
    """The sender or the client is not authenticated."""


class BodyError(ReceiverError):
    """The request cannot be read."""


class ProviderError(ReceiverError):
    """The provider refuses or does not answer; it may ask to wait ``retry_after`` seconds.

    ``maybe_sent``: a submission may have made a job all the same.
    """

    def __init__(
        self, reason: str, detail: str = "", *, retry_after: float | None = None, maybe_sent: bool = False
    ) -> None:
        super().__init__(reason, detail)
        self.retry_after = retry_after
        self.maybe_sent = maybe_sent


class _FixedProviderError(ProviderError):
    """A ProviderError whose class has one reason, which its own subclasses inherit."""

    REASON: ClassVar[str]

    def __init_subclass__(cls, *, reason: str = "") -> None:
        cls.REASON = reason or cls.REASON

    def __init__(
        self, detail: str = "", *, retry_after: float | None = None, maybe_sent: bool = False
    ) -> None:
        super().__init__(self.REASON, detail, retry_after=retry_after, maybe_sent=maybe_sent)
        self.args = (self.detail,)


class TokenRefusedError(_FixedProviderError, reason="provider.token_refused"):
    """The provider refuses the token. Every call fails alike until an operator replaces it."""


class NoCreditsError(_FixedProviderError, reason="provider.no_credits"):
    """The provider's account has no credits left."""


class RateLimitedError(_FixedProviderError, reason="provider.rate_limited"):
    """The provider asks for fewer requests, for ``retry_after`` seconds if that is set."""


class UnknownJobError(_FixedProviderError, reason="provider.unknown_job"):
    """The provider knows no job of this id."""


class InvalidRequestError(_FixedProviderError, reason="provider.invalid_request"):
    """The request is invalid, and repeating it cannot help. Also raised before anything is sent."""


class UnaskableError(InvalidRequestError):
    """What is known of the job is not enough to ask about it. Nothing was sent."""


class UnavailableError(_FixedProviderError, reason="provider.unavailable"):
    """The provider does not answer, or its answer cannot be read."""


class _FinalError(ReceiverError):
    """An error that may be ``final``: another attempt cannot have another end."""

    def __init__(self, reason: str, detail: str = "", *, final: bool = False) -> None:
        super().__init__(reason, detail)
        self.final = final


class UrlError(_FinalError):
    """The image may not be fetched from this URL.

    ``final``: the job's own URL can never be allowed. Otherwise a redirect or an address was refused.
    """


class ImageError(_FinalError):
    """The bytes are not the promised image. ``final``: the provider itself says that they are none."""


class FetchError(ReceiverError):
    """The download failed; the host may ask to wait ``retry_after`` seconds."""

    def __init__(self, reason: str, detail: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(reason, detail)
        self.retry_after = retry_after


class ArchiveError(ReceiverError):
    """The object was not archived, or not proved. ``permanent``: it does not pass until somebody acts."""

    def __init__(self, reason: str, detail: str = "", *, permanent: bool = False) -> None:
        super().__init__(reason, detail)
        self.permanent = permanent


class LedgerError(ReceiverError):
    """The ledger cannot be written, or its state forbids the change."""


class SpoolError(ReceiverError):
    """Our own disk is full, or failed."""
