"""The AWS SDK's client as the archive uses it, with its errors as `ArchiveError`."""

import base64
import gzip
import hashlib
import json
import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from email.utils import parsedate_to_datetime
from functools import cache
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
    TokenRetrievalError,
)
from botocore.utils import is_valid_endpoint_url

from receiver.archive import metadata
from receiver.archive.s3.direct import DirectPut
from receiver.archive.spool_file import BLOCK, SpoolFile
from receiver.core.errors import ArchiveError, ConfigError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef as Head
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef as Page

URL_LIFETIME = 300
"""Seconds that a presigned URL works."""

MIN_CONNECTIONS = 4
"""Connections to the store, however few uploads are allowed: the probe writes several objects at once."""

CLIENT_VARIABLES = {
    "AWS_ENDPOINT_URL": "endpoint_url",
    "AWS_ENDPOINT_URL_S3": "endpoint_url",
    "AWS_DEFAULT_REGION": "region_name",
    "AWS_REGION": "region_name",  # not read by botocore, but set where AWS runs containers
    "AWS_ACCESS_KEY_ID": "aws_access_key_id",
    "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key",
    "AWS_SESSION_TOKEN": "aws_session_token",
    "AWS_CA_BUNDLE": "verify",
}
"""The SDK's variables that can be given to one client; of two for one option the later one wins."""

ERROR_CODES: Mapping[tuple[str, bool], str] = {
    ("archive.denied", True): (
        "AccessDenied AllAccessDisabled AccountProblem InvalidAccessKeyId SignatureDoesNotMatch ExpiredToken "
        "InvalidToken TokenRefreshRequired InvalidSecurity NotSignedUp 401 403"
    ),
    ("archive.no_bucket", True): "NoSuchBucket",
    ("archive.clock_skew", True): "RequestTimeTooSkewed",
    ("archive.too_large", True): "EntityTooLarge 413",
    ("archive.misconfigured", True): (
        "PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException InvalidBucketName "
        "MissingContentLength NotImplemented MethodNotAllowed 301 405 411 501"
    ),
    ("archive.refused", False): "InvalidRequest InvalidArgument KeyTooLongError MetadataTooLarge",
    ("archive.full", False): "QuotaExceeded InsufficientCapacity InsufficientStorage XMinioStorageFull 507",
}
"""The store's error codes, or else statuses, by reason and by whether somebody must act before it passes.

Everything else (500, 503, SlowDown, 429, ConditionalRequestConflict and whatever is unknown) is
``archive.unavailable``. Which reasons pause the uploads of other objects is decided in `pipeline.outcomes`.
"""

BY_CODE = {code: meaning for meaning, codes in ERROR_CODES.items() for code in codes.split()}

SERVICES = {"s3", "sts", "portal.sso", "oidc", "signin"}
"""Of the services whose endpoints the SDK describes, S3 and those that give credentials."""

NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, TokenRetrievalError)


class Address(NamedTuple):
    """Where an object lies, with the archive's prefix in its key."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def arguments(self, version: str | None = None) -> dict[str, Any]:
        of_version = {"VersionId": version} if version else {}
        return {"Bucket": self.bucket, "Key": self.key, **of_version}


class Client:
    """Sends requests to a store, from any thread. Failed ones raise `ArchiveError`.

    The arguments are those of `open_archive`. ``verify`` is what proves the store's name: a file of
    certificates, or ``True`` for the usual ones. ``clock_offset`` is the seconds by which the store's clock
    is ahead, by its last answer. Raise `ConfigError` where the SDK cannot use its settings, or would not see
    one.
    """

    sdk: "S3Client"
    verify: str | bool

    def __init__(self, *, uploads: int, environ: Mapping[str, str], public_url: str | None = None) -> None:
        self._options = _options(environ)
        self._connections = max(uploads, MIN_CONNECTIONS)
        self._public_url = public_url
        self._asks_for_checksum = True
        self._direct: DirectPut | None = None
        self._direct_lock = threading.Lock()
        self._closed = False
        self._attempted: set[int] = set()
        self.clock_offset: float | None = None
        try:
            self._connect()
        except (BotoCoreError, ValueError, OSError) as error:
            if (name := _wrong_address(environ)) is not None:
                raise ConfigError(f"{name}: must be a URL such as https://host or http://host:port") from None
            kind = type(error).__name__  # alone: the SDK's text may quote a credentials file
            raise ConfigError(f"AWS_*: the AWS SDK cannot use its settings ({kind})") from None

    def reconnect(self) -> None:
        """Use the credentials that the SDK finds now."""
        with suppress(BotoCoreError, ValueError, OSError):  # the old client then stays, and stays refused
            self._connect()

    def open_direct(self, at: Address | None) -> None:
        """Let `put_directly` write beside an object, if the SDK would send plain requests there.

        Without one, all writes are left to the SDK.
        """
        direct = None
        if at is not None and self._credentials is not None and self._asks_for_checksum:
            with suppress(BotoCoreError, ValueError, LookupError, OSError):
                presigned = self.sdk.generate_presigned_url("put_object", Params=at.arguments())
                ca_bundle = self.verify if isinstance(self.verify, str) else None
                direct = DirectPut(presigned, at.key, self._credentials, ca_bundle)
        # Probes may overlap, and one may end after `close`: none must leave connections that nobody closes.
        with self._direct_lock:
            before, self._direct = self._direct, None if self._closed else direct
        if before is not None:
            before.close()

    def close(self) -> None:
        self._closed = True
        self.open_direct(None)
        self.sdk.close()
        self._presigner.close()

    def put(self, at: Address, body: IO[bytes] | bytes, **arguments: Any) -> str | None:
        """Write an object. Return its version, if the store has versions."""
        with self.translated(at):
            return self.sdk.put_object(Body=body, **at.arguments(), **arguments).get("VersionId")

    def put_directly(self, at: Address, file: SpoolFile) -> "Head | None":
        """Write an image where nothing is, at less cost; ``None`` if it is to be `put`, whatever happened."""
        direct = self._direct  # another thread may replace it
        if direct is None or direct.paused:
            return None
        head = direct.put(at.key, file)
        if head is None:
            self._attempted.add(threading.get_ident())
        return head

    def head(
        self, at: Address, version: str | None = None, *, missing: str = "archive.unavailable"
    ) -> "Head":
        """Return what the store says of an object; ``missing`` is the reason if there is none."""
        with self.translated(at, missing):
            if self._asks_for_checksum:
                try:
                    return self.sdk.head_object(ChecksumMode="ENABLED", **at.arguments(version))
                except ClientError as error:
                    if answer_behind(error)[0] not in {400, 405, 501}:
                        raise
            head = self.sdk.head_object(**at.arguments(version))
            self._asks_for_checksum = False  # its header is what the store refused
            return head

    def head_or_none(self, at: Address) -> "Head | None":
        """``None`` also where the store does not say, as S3 does without s3:ListBucket."""
        try:
            return self.head(at, missing="archive.missing")
        except ArchiveError as error:
            if error.reason in {"archive.missing", "archive.denied"}:
                return None
            raise

    def blocks(self, at: Address, version: str | None = None) -> Generator[bytes, None, None]:
        """Yield the bytes of an object; the generator is to be closed, and its errors to be `translated`."""
        body = self.sdk.get_object(**at.arguments(version))["Body"]
        try:
            yield from body.iter_chunks(BLOCK)
        finally:
            body.close()

    def sha256(self, at: Address, version: str | None = None) -> str:
        """Read all of an object, and return its hash, hex."""
        value = hashlib.sha256()
        with self.translated(at), closing(self.blocks(at, version)) as blocks:
            for block in blocks:
                value.update(block)
        return value.hexdigest()

    def list(self, arguments: Mapping[str, Any]) -> "Page":
        with self.translated(Address(arguments["Bucket"], arguments["Prefix"])):
            return self.sdk.list_objects_v2(**arguments)

    def delete(self, at: Address) -> None:
        with self.translated(at):
            self.sdk.delete_object(**at.arguments())

    def presign(self, at: Address, version: str | None = None, **arguments: str) -> str:
        """Return a URL by which anybody can read an object, for `URL_LIFETIME`."""
        with self.translated(at):
            return self._presigner.generate_presigned_url(
                "get_object", Params={**at.arguments(version), **arguments}, ExpiresIn=URL_LIFETIME
            )

    @contextmanager
    def translated(self, at: Address, missing: str | None = None) -> Iterator[None]:
        """Raise the SDK's errors as ArchiveError; a 404 with the reason ``missing``, where one is given."""
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            if missing is not None and answer_behind(error)[0] == 404:
                raise ArchiveError(missing, f"{at} is not there.") from error
            raise self._translate(error, at) from error

    def _translate(self, error: ClientError | BotoCoreError, at: Address) -> ArchiveError:
        """Translate an error by codes and kinds alone: the other texts of stores can quote secrets."""
        if isinstance(error, ClientError):
            status, code = answer_behind(error)
            meaning = BY_CODE.get(code) or BY_CODE.get(str(status))
            reason, permanent = meaning or ("archive.unavailable", False)
            detail = f"{at}: {error.operation_name} was answered {status} {code}."
            return ArchiveError(reason, detail, permanent=permanent)
        kind = type(error).__name__
        if isinstance(error, NO_CREDENTIALS):
            detail = f"{at}: the AWS SDK has no credentials ({kind})."
            return ArchiveError("archive.denied", detail, permanent=True)
        if isinstance(error, ParamValidationError):
            return ArchiveError("archive.refused", f"{at}: the AWS SDK refuses the request.")
        endpoint = urlsplit(self.sdk.meta.endpoint_url)
        where = f"{endpoint.scheme}://{endpoint.netloc.rpartition('@')[2]}"
        if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            detail = f"{at}: {where} did not prove its name; see AWS_CA_BUNDLE."
            return ArchiveError("archive.misconfigured", detail, permanent=True)
        if isinstance(error, SSLError) and _lacks_bundle(error):
            detail = f"{at}: the file of AWS_CA_BUNDLE cannot be read, or holds no certificate."
            return ArchiveError("archive.misconfigured", detail, permanent=True)
        return ArchiveError("archive.unavailable", f"{at}: {where} does not answer ({kind}).")

    def _connect(self) -> None:
        settings = botocore.session.get_session()
        settings.register_component("data_loader", _models(settings.get_config_variable("data_path")))
        session = boto3.session.Session(botocore_session=settings)
        client = self._sdk_client(session)
        if client.meta.endpoint_url.startswith("https:"):
            # TLS protects the body on its way, and the store checks its SHA-256 at the end. botocore need not
            # read and hash every file once more. Only a client knows its endpoint.
            client.close()
            client = self._sdk_client(session, signed_payload=False)
        client.meta.events.register("after-call.s3", self._note_clock)
        client.meta.events.register("before-send.s3.PutObject", self._count_attempt)
        client.meta.events.register("before-parameter-build.s3.PutObject", _keep_to_region)
        public = self._public_url
        self._presigner = self._sdk_client(session, endpoint_url=public) if public is not None else client
        access, secret = self._options.get("aws_access_key_id"), self._options.get("aws_secret_access_key")
        self._credentials = (
            Credentials(access, secret, self._options.get("aws_session_token"))
            if access and secret
            else session.get_credentials()
        )
        self.verify = self._options.get("verify") or settings.get_config_variable("ca_bundle") or True
        self.sdk = client

    def _sdk_client(
        self, session: boto3.session.Session, *, signed_payload: bool = True, **options: Any
    ) -> "S3Client":
        return session.client(
            "s3",
            config=Config(
                signature_version="s3v4",
                # Not every store knows botocore's default, a CRC32 trailer of a body without Content-Length.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                # The ledger keeps the waits of minutes and hours; these attempts only bridge a hiccup.
                retries={"mode": "standard", "total_max_attempts": 3},
                connect_timeout=5,
                read_timeout=30,
                max_pool_connections=self._connections,
                s3={} if signed_payload else {"payload_signing_enabled": False},
            ),
            **{**self._options, **options},
        )

    def _count_attempt(self, **_: Any) -> None:
        """Let the attempt of `put_directly` be the first of those that the SDK makes in this thread."""
        if (thread := threading.get_ident()) in self._attempted:
            self._attempted.discard(thread)
            raise ConnectionClosedError(endpoint_url=self.sdk.meta.endpoint_url)

    def _note_clock(self, http_response: Any, **_: Any) -> None:
        with suppress(TypeError, ValueError):
            date = parsedate_to_datetime(http_response.headers.get("date"))
            self.clock_offset = date.timestamp() - time.time()


def answer_behind(error: BaseException) -> tuple[int, str]:
    """Return the status and the code of the store's answer that an error stands for; 0 if there was none."""
    cause = error.__cause__ if isinstance(error, ArchiveError) else error
    if not isinstance(cause, ClientError):
        return 0, ""
    status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(cause.response.get("Error", {}).get("Code", ""))
    # Cut to what can stand in a log line.
    return int(status), "".join(c for c in code if c.isascii() and (c.isalnum() or c in "._-"))[:64]


def metadata_of(head: "Head") -> Mapping[str, str]:
    """Return an object's metadata; empty unless a put can have written them.

    Header names have no case, and Ceph turns an underscore into a dash.
    """
    pairs = {name.lower().replace("_", "-"): value for name, value in head["Metadata"].items()}
    try:
        return metadata.decode_all(pairs)
    except ValueError:
        return {}


def base64_of(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _options(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the client's options for what the process's own environment lacks.

    The SDK, and the programs that it starts for credentials, read dozens of variables, always from the
    process and some of them late. A variable that they would not see is therefore refused rather than
    ignored.
    """
    own = {
        name: value
        for name, value in environ.items()
        if name.startswith("AWS_") and value and os.environ.get(name) != value
    }
    unseen = sorted(own.keys() - CLIENT_VARIABLES.keys())
    if unseen:
        raise ConfigError(f"{unseen[0]}: the AWS SDK reads it from the process's environment alone")
    variables = environ if own else {"AWS_REGION": os.environ.get("AWS_REGION", "")}
    return {option: variables[name] for name, option in CLIENT_VARIABLES.items() if variables.get(name)}


@cache
def _models(data_path: str | None) -> botocore.loaders.Loader:
    """Return the SDK's descriptions of services.

    They never change. Each session would read megabytes of JSON anew: a tenth of a second for each client.
    """
    loader = botocore.loaders.create_loader(data_path)
    loader.file_loader = _Descriptions()
    return loader


class _Descriptions(botocore.loaders.JSONFileLoader):
    """Reads the SDK's descriptions without documentation, and without the services that nobody asks: 12 MB.

    For a service that is not described, the SDK makes the endpoint by its partition's rule.
    """

    def load_file(self, file_path: str) -> Any:
        for suffix, open_text in (".json", open), (".json.gz", gzip.open):
            if os.path.isfile(file_path + suffix):  # noqa: PTH113 - the SDK's paths are text
                with open_text(file_path + suffix, "rt", encoding="utf-8") as file:
                    return json.load(file, object_hook=_needed)
        return None


def _needed(described: dict[str, Any]) -> dict[str, Any]:
    if isinstance(described.get("documentation"), str):
        described["documentation"] = ""
    if described.keys() >= {"partition", "services"}:
        services = described["services"]
        described["services"] = {name: services[name] for name in SERVICES & services.keys()}
    return described


def _wrong_address(environ: Mapping[str, str]) -> str | None:
    """Return the variable that should hold the store's address, where it does not."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if given := environ.get(name) or os.environ.get(name):
            return None if is_valid_endpoint_url(given) else name
    return None


def _keep_to_region(context: dict[str, Any], **_: Any) -> None:
    """Presign a put for the endpoint that puts are sent to; the SDK would take AWS's global one."""
    context["use_global_endpoint"] = False


def _lacks_bundle(error: SSLError) -> bool:
    """Whether TLS failed at our own file of certificates, before any request."""
    of_urllib3 = error.kwargs.get("error")
    cause = of_urllib3.args[0] if isinstance(of_urllib3, Exception) and of_urllib3.args else None
    unreadable = FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError
    return isinstance(cause, unreadable) or "NO_CERTIFICATE_OR_CRL_FOUND" in str(cause)
