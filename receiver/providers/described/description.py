"""The language of descriptions, and reading a file of it. A wrong one is named by its line and key."""

import re
import tomllib
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from receiver.config import HEADER_NAME, SETTINGS, duration, error_text
from receiver.core.clock import Clock
from receiver.core.completion import PROVIDER
from receiver.core.errors import ConfigError
from receiver.core.toml_lines import line_of, line_of_error
from receiver.providers import json_paths, signatures

MAX_FILE_BYTES = 64 * 1024

_PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_-]+)\}")
_RESERVED = ("RECEIVER_", "AWS_")
_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "means nothing here",
    "union_tag_invalid": "has a kind that is none of {expected_tags}",
    "union_tag_not_found": "has no kind",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "dict_type": "must be a table",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "too_short": "must not be empty",
}
"""What pydantic's errors mean, by its name for their kind, beside those of settings."""


def _header(name: str) -> str:
    if not HEADER_NAME.fullmatch(name):
        raise ValueError("has a name that HTTP does not allow for a header")
    return name.lower()


def _setting(name: str) -> str:
    if not re.fullmatch(r"[A-Z][A-Z0-9_]{2,63}", name) or name.startswith(_RESERVED):
        raise ValueError(
            "must be the name of an environment variable such as ACME_SECRET, and never the secret itself"
        )
    return name


def _template(text: str) -> str:
    names = set(_PLACEHOLDER.findall(text))
    if re.search(r"[{}]", _PLACEHOLDER.sub("", text)):
        raise ValueError("has a brace that belongs to no {name}")
    if names.isdisjoint({"body", "sha256"}):
        raise ValueError("must hold {body} or {sha256}: otherwise the signature does not prove the body")
    return text


def _host(name: str) -> str:
    if not re.fullmatch(r"(?:\*\.)?[a-z0-9-]+(?:\.[a-z0-9-]+)+", name):
        raise ValueError("must be host names in lower case such as files.acme.test or *.acme.test")
    return name


def _base(url: HttpUrl) -> HttpUrl:
    if url.query or url.fragment or url.username or url.password:
        raise ValueError("must be a URL such as https://host/path")
    if url.scheme != "https" and url.host not in ("localhost", "127.0.0.1", "[::1]"):
        raise ValueError("must be https, because a secret goes there")
    return url


def _headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        _header(name)
        if not re.fullmatch(r"[\x20-\x7e]+", value) or set(_PLACEHOLDER.findall(value)) - {"secret"}:
            raise ValueError(f"{name} must be printable ASCII, and can hold {{secret}}")
        if re.search(r"auth|key|token|secret", name.lower()) and "{secret}" not in value:
            raise ValueError(f"{name} must hold {{secret}}: no secret may stand in this file")
    return headers


Place = Annotated[tuple[json_paths.Path, ...], BeforeValidator(json_paths.parse)]
Places = Annotated[tuple[json_paths.Path, ...], BeforeValidator(partial(json_paths.parse, each=True))]
HeaderName = Annotated[str, AfterValidator(_header)]
Setting = Annotated[str, AfterValidator(_setting)]
Span = Annotated[timedelta, BeforeValidator(duration)]
Words = tuple[Annotated[str, Field(min_length=1, max_length=64)], ...]
HeaderTexts = Annotated[dict[str, str], Field(min_length=1), AfterValidator(_headers)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Header(_Table):
    """A secret that is sent as it is, in a header of any name."""

    kind: Literal["header"]
    header: HeaderName
    secret: Setting


class Bearer(_Table):
    """A secret that is sent as it is, as ``Authorization: Bearer SECRET``."""

    kind: Literal["bearer"]
    secret: Setting


class StandardWebhooks(_Table):
    """The proof of Standard Webhooks, with header names of any beginning."""

    kind: Literal["standard-webhooks"]
    secret: Setting
    key: tuple[signatures.KeyForm, ...] = Field(("base64",), min_length=1)
    headers: HeaderName = "webhook"
    tolerance: Span = signatures.TOLERANCE


class _Signed(_Table):
    header: HeaderName
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = ""
    time: HeaderName | None = None
    tolerance: Span = signatures.TOLERANCE
    signed: Annotated[str, AfterValidator(_template)] = Field("{body}", validate_default=True)

    @field_validator("signed")
    @classmethod
    def _holds_the_time(cls, text: str, info: ValidationInfo) -> str:
        time = info.data.get("time")
        if time is not None and time not in {name.lower() for name in _PLACEHOLDER.findall(text)}:
            raise ValueError(f"must hold {{{time}}}: otherwise anybody could change the time")
        return text

    def template(self, now: Clock) -> signatures.Template:
        parts = [part.lower() if at % 2 else part for at, part in enumerate(_PLACEHOLDER.split(self.signed))]
        return signatures.Template(
            self.header, self.encoding, self.prefix, parts, now, self.time, self.tolerance
        )


class Hmac(_Signed):
    """HMAC-SHA-256 over the body, or over a template of headers and the body."""

    kind: Literal["hmac-sha256"]
    secret: Setting
    key: tuple[signatures.KeyForm, ...] = Field(("text",), min_length=1)


class Ed25519(_Signed):
    """Ed25519 over a template, with the keys of a JWKS."""

    kind: Literal["ed25519"]
    jwks: Setting | None = None
    jwks_url: Annotated[HttpUrl, AfterValidator(_base)] | None = None

    @model_validator(mode="after")
    def _has_keys(self) -> Self:
        if (self.jwks is None) == (self.jwks_url is None):
            raise ValueError("needs jwks or jwks_url, and not both")
        return self


class Job(_Table):
    """Where a body says which job it is about, and whether that has ended."""

    id: Place
    numeric_id: bool = False
    state: Place
    done: Words = Field(min_length=1)
    failed: Words = ()
    error: Place = ()
    ended_at: Place = ()

    @field_validator("failed")
    @classmethod
    def _is_not_done(cls, words: Words, info: ValidationInfo) -> Words:
        if not set(words).isdisjoint(info.data.get("done", ())):
            raise ValueError("has a word that is in done, too")
        return words


class Outputs(_Table):
    """Where the files of a job stand, and what is promised of each."""

    each: Places
    url: Place = ()
    width: Place = ()
    height: Place = ()
    bytes: Place = ()
    content_type: Place = ()
    ends_at: Place = ()


class Ask(_Table):
    """How the provider is asked about a job."""

    base: Annotated[HttpUrl, AfterValidator(_base)]
    path: str
    endpoint: str | None = None
    probe: str | None = None
    secret: Setting
    headers: HeaderTexts
    rate: float = Field(1.0, gt=0, le=1000)
    fresh_urls: bool = False

    @field_validator("path", "probe")
    @classmethod
    def _is_path(cls, text: str | None, info: ValidationInfo) -> str | None:
        names = {"id", "endpoint"} if info.field_name == "path" else set()
        if text is None:
            return text
        plain = _PLACEHOLDER.sub("x", text)
        if not re.fullmatch(r"(?:/[A-Za-z0-9._~=&?-]+)+", plain) or "/.." in plain:
            raise ValueError("must be a path such as /v1/jobs/{id}")
        found = set(_PLACEHOLDER.findall(text))
        if found - names or ("id" in names and "id" not in found):
            raise ValueError(
                "must hold {id}, and no other name but {endpoint}" if names else "holds no names"
            )
        return text


class Files(_Table):
    """The hosts of files that want a header."""

    hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = Field(min_length=1)
    secret: Setting
    headers: HeaderTexts


class Description(_Table):
    """A provider, described."""

    name: str
    title: str = Field(min_length=1, max_length=40)
    url_lifetime: Span
    redact: Places = ()
    proof: Annotated[
        Header | Bearer | StandardWebhooks | Hmac | Ed25519,
        Field(discriminator="kind"),
    ]
    job: Job
    outputs: Outputs
    ask: Ask | None = None
    files: Files | None = None

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        if not re.fullmatch(PROVIDER, name):
            raise ValueError(
                "must be at most 32 small letters, digits, dashes and underscores, a letter first"
            )
        return name

    @field_validator("proof", "ask", "files")
    @classmethod
    def _takes_own_secrets(cls, table: Any, info: ValidationInfo) -> Any:
        own = info.data.get("name", "").upper().replace("-", "_") + "_"
        secret = getattr(table, "secret", None)
        if secret in SETTINGS and not secret.startswith(own):
            raise ValueError("takes a secret that is another provider's setting")
        return table


def load(path: Path) -> Description:
    """Return the description in a file.

    Raises:
        ConfigError: one line that names the file, the line, the key and what is wrong, and no value.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"RECEIVER_PROVIDERS: {path}: cannot be read ({type(error).__name__})") from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"RECEIVER_PROVIDERS: {path}: is larger than {MAX_FILE_BYTES} bytes")
    return parse(text, str(path))


def parse(text: str, origin: str) -> Description:
    """Return the description in a text; ``origin`` names it in errors, which are those of `load`."""
    try:
        return Description.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        fault = f"{line_of_error(str(error))}: is no TOML"
    except RecursionError:
        fault = "line 1: is nested too deep"
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        keys = [key for key in first["loc"] if isinstance(key, str)]
        if keys[:1] == ["proof"]:
            del keys[1:2]  # the kind, which pydantic names there
        own, context = _WORDS.get(first["type"]), first.get("ctx", {})
        words = own.format_map(context) if own else error_text(first["type"], first["msg"], context)
        fault = f"line {line_of(text, tuple(keys))}: {'.'.join(keys)}: {words}"
    raise ConfigError(f"RECEIVER_PROVIDERS: {origin}, {fault}") from None
