"""What descriptions in TOML are made of: types of their values, and errors that name the line and the key."""

import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, HttpUrl, ValidationError

from receiver.config import HEADER_NAME, duration, error_text
from receiver.core.errors import ConfigError
from receiver.core.toml_lines import line_of, line_of_error
from receiver.providers import json_paths
from receiver.providers.signatures import PLACEHOLDER

MAX_FILE_BYTES = 64 * 1024

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
    "string_pattern_mismatch": "has a character or a form that it cannot have",
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


def _secure(url: HttpUrl) -> HttpUrl:
    if url.query or url.fragment or url.username or url.password:
        raise ValueError("must be a URL such as https://host/path")
    if url.scheme != "https" and url.host not in ("localhost", "127.0.0.1", "[::1]"):
        raise ValueError("must be https, or lead to this machine: it carries a secret, or keys")
    return url


def _headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        _header(name)
        if not re.fullmatch(r"[\x20-\x7e]+", value) or set(PLACEHOLDER.findall(value)) - {"secret"}:
            raise ValueError(f"{name} must be printable ASCII, and can hold {{secret}}")
        if re.search(r"auth|key|token|secret", name.lower()) and "{secret}" not in value:
            raise ValueError(f"{name} must hold {{secret}}: no secret may stand in this file")
    return headers


Place = Annotated[tuple[json_paths.Path, ...], BeforeValidator(json_paths.parse)]
Places = Annotated[tuple[json_paths.Path, ...], BeforeValidator(partial(json_paths.parse, each=True))]
HeaderName = Annotated[str, AfterValidator(_header)]
Setting = Annotated[str, AfterValidator(_setting)]
Span = Annotated[timedelta, BeforeValidator(duration)]
TimeUnit = Literal["s", "ms"]
UNITS: Mapping[TimeUnit, int] = {"s": 1000, "ms": 1}
"""In ms."""
Words = tuple[Annotated[str, Field(min_length=1, max_length=64)], ...]
SecureUrl = Annotated[HttpUrl, AfterValidator(_secure)]
HeaderTexts = Annotated[dict[str, str], Field(min_length=1), AfterValidator(_headers)]


class Table(BaseModel):
    """A table of a description."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


T = TypeVar("T", bound=Table)


def load(path: Path, model: type[T], setting: str) -> T:
    """Return the table in a file, which a setting names.

    Raises:
        ConfigError: one line that names the file, the line, the key and what is wrong, and no value.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{setting}: {path}: cannot be read ({type(error).__name__})") from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{setting}: {path}: is larger than {MAX_FILE_BYTES} bytes")
    try:
        return parse(text, model)
    except ValueError as error:
        raise ConfigError(f"{setting}: {path}, {error}") from None


def parse(text: str, model: type[T]) -> T:
    """Return the table in a text. Raise `ValueError` with the line, the key and what is wrong."""
    try:
        return model.model_validate(tomllib.loads(text))
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
    raise ValueError(fault)
