"""The language of descriptions: docs/guide/describing-a-provider.md has all of it in a table."""

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from receiver.config import SETTINGS
from receiver.core.completion import PROVIDER
from receiver.providers import proofs
from receiver.providers.signatures import PLACEHOLDER
from receiver.providers.tables import (
    HeaderTexts,
    Place,
    Places,
    SecureUrl,
    Setting,
    Span,
    Table,
    TimeUnit,
    Words,
)

ENDPOINT = r"^[A-Za-z0-9][A-Za-z0-9_-]*(?:[./][A-Za-z0-9_-]+)*$"


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has a character that cannot be shown")
    return text


def _host(name: str) -> str:
    if not re.fullmatch(r"(?:\*\.)?[a-z0-9-]+(?:\.[a-z0-9-]+)+", name):
        raise ValueError("must be host names in lower case such as files.acme.test or *.acme.test")
    return name


class Job(Table):
    """Where a body says which job it is about, and whether that has ended."""

    id: Place
    numeric_id: bool = False
    state: Place
    done: Words = Field(min_length=1)
    failed: Words = ()
    running: Words = ()
    error: Place = ()
    ended_at: Place = ()

    @field_validator("failed", "running")
    @classmethod
    def _is_no_other(cls, words: Words, info: ValidationInfo) -> Words:
        for other in ("done", "failed"):
            if other != info.field_name and not set(words).isdisjoint(info.data.get(other, ())):
                raise ValueError(f"has a word that is in {other}, too")
        return words


class Outputs(Table):
    """Where the files of a job stand, and what is promised of each."""

    each: Places
    url: Place = ()
    width: Place = ()
    height: Place = ()
    bytes: Place = ()
    content_type: Place = ()
    ends_at: Place = ()
    time_unit: TimeUnit = "s"


class Ask(Table):
    """How the provider is asked about a job."""

    base: SecureUrl
    path: str
    endpoint: str | None = Field(None, pattern=ENDPOINT)
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
        plain = PLACEHOLDER.sub("x", text)
        if not re.fullmatch(r"(?:/[A-Za-z0-9._~=&?-]+)+", plain) or "/.." in plain:
            raise ValueError("must be a path such as /v1/jobs/{id}")
        found = set(PLACEHOLDER.findall(text))
        if found - names or ("id" in names and "id" not in found):
            raise ValueError(
                "must hold {id}, and no other name but {endpoint}" if names else "holds no names"
            )
        return text

    @model_validator(mode="after")
    def _has_endpoint(self) -> Self:
        if "{endpoint}" in self.path and self.endpoint is None:
            raise ValueError("needs an endpoint, because its path holds {endpoint}")
        return self


class Files(Table):
    """The hosts of files that want a header."""

    hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = Field(min_length=1)
    secret: Setting
    headers: HeaderTexts


class Description(Table):
    """A provider, described."""

    name: str
    title: Annotated[str, AfterValidator(_printable)] = Field(min_length=1, max_length=40)
    url_lifetime: Span
    redact: Places = ()
    proof: proofs.Written
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

    def settings(self) -> list[str]:
        """Return the names of the variables that hold its secrets."""
        tables = (self.proof, self.ask, self.files)
        return [name for table in tables if (name := getattr(table, "secret", None)) is not None]
