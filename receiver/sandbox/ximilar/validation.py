"""Validates the body of a submit strictly against Ximilar's documentation."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from PIL import Image
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from receiver.sandbox.faults import Plan, plan_of
from receiver.sandbox.jobs import Order
from receiver.sandbox.loopback import loopback_url
from receiver.sandbox.submits import InvalidRequestError, json_object
from receiver.sandbox.upscale import Upscaling

_RESAMPLING: Mapping[str | None, Image.Resampling] = {
    None: Image.Resampling.BICUBIC,
    "artifact_removal": Image.Resampling.BICUBIC,
    "ironed_out": Image.Resampling.BILINEAR,
    "high_fidelity": Image.Resampling.LANCZOS,
}
_CLIENT_HEADERS = {"host", "content-length", "transfer-encoding", "connection"}


@dataclass(frozen=True, slots=True, kw_only=True)
class XimilarOrder(Order):
    """A submit with what comes back in the answers."""

    workspace: str
    record_id: str | None


def _encodable(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds half of a surrogate pair")
    return text


def _on_loopback(url: str) -> str:
    loopback_url(url)
    return url


def _allowed(header: str) -> str:
    if header.lower() in _CLIENT_HEADERS:
        raise ValueError("a name that the HTTP client sets itself")
    return header


def _decoded_size(encoded: object) -> int | None:
    if encoded is not None and not isinstance(encoded, str):
        raise ValueError("must be a string")
    return None if encoded is None else len(base64.b64decode(encoded, validate=True))


def _plan(data: object) -> Plan | None:
    if data is None:
        return None
    fault = data.get("fault") if isinstance(data, dict) else None
    names = [fault] if isinstance(fault, str) else fault
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError('must be {"fault": NAME} or {"fault": [NAME, …]}')
    return plan_of(names)


_Text = Annotated[str, AfterValidator(_encodable)]
_Url = Annotated[_Text, AfterValidator(_on_loopback)]
# RFC 9110: token (section 5.6.2), field-value (5.5) without obs-text.
_HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"), AfterValidator(_allowed)]
_HeaderValue = Annotated[str, Field(pattern=r"^([\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?)?$")]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, protected_namespaces=())


class Webhook(_Model):
    """The endpoint of the completion, and the headers to send with it."""

    endpoint: _Url
    headers: dict[_HeaderName, _HeaderValue] | None = None


class Record(_Model):
    """The source: its URL, or the size of the picture that the body holds in base64.

    ``plan`` has the faults that ``_sandbox`` names.
    """

    id: _Text | None = Field(None, alias="_id")
    url: _Url | None = Field(None, alias="_url")
    size: Annotated[int | None, BeforeValidator(_decoded_size)] = Field(None, alias="_base64")
    plan: Annotated[Any, BeforeValidator(_plan)] = Field(None, alias="_sandbox")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.url is None) == (self.size is None):
            raise ValueError("the record needs one of _url and _base64")
        return self


class Submission(_Model):
    """A valid submit, by the names of the provider's page, without a picture in base64."""

    type: Literal["upscaler"]
    endpoint: Literal["upscale_2x", "upscale_4x", "upscale_8x"]
    mode: Literal["artifact_removal", "ironed_out", "high_fidelity"] | None = None
    model_type: Literal["classic", "gan"] | None = None
    image_format: Literal["auto", "png", "jpg", "webp"] | None = None
    image_quality: Annotated[int, Field(ge=1, le=100)] | None = None
    tune_colors: bool | None = None
    workspace: _Text | None = None
    webhook: Webhook | None = None
    records: Annotated[list[Record], Field(min_length=1, max_length=1)]

    @model_validator(mode="after")
    def _quality_of_a_format(self) -> Self:
        if self.image_quality is not None and self.image_format is None:
            raise ValueError("image_quality: only available together with image_format")
        return self

    def upscaling(self) -> Upscaling:
        """Return what to do. ``tune_colors`` has no effect, since resizing does not change the colours."""
        return Upscaling(
            factor=int(self.endpoint[-2]),
            resampling=_RESAMPLING[self.mode],
            sharpen=self.model_type == "gan",
            image_format=self.image_format or "auto",
            image_quality=self.image_quality or 85,
        )


def parse(body: bytes, max_source_bytes: int, workspace: str) -> XimilarOrder:
    """Parse the body of a submit. It may hold a whole picture: call it in a thread.

    Raises:
        InvalidRequestError: the provider's page does not allow it.
    """
    try:
        submission = Submission.model_validate(json_object(body))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        # Of the webhook, its header's name is left out, which may be any text.
        place = fault["loc"][2:3] if fault["loc"][:1] == ("records",) else fault["loc"][:2]
        name = ".".join(map(str, place or fault["loc"][:1]))
        message = fault["msg"].removeprefix("Value error, ")
        raise InvalidRequestError(f"{name}: {message}" if name else message) from error
    (record,), webhook = submission.records, submission.webhook
    if (record.size or 0) > max_source_bytes:
        raise InvalidRequestError(f"_base64: larger than {max_source_bytes} bytes")
    return XimilarOrder(
        source=record.url,
        upscaling=submission.upscaling(),
        webhook=None if webhook is None else webhook.endpoint,
        headers={} if webhook is None else webhook.headers or {},
        plan=record.plan,
        workspace=submission.workspace or workspace,
        record_id=record.id,
    )


def source_of(request: Any) -> bytes:
    """Return the picture in the ``_base64`` of a submit that `parse` has accepted."""
    return base64.b64decode(request["records"][0]["_base64"])
