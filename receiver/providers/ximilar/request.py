"""The request for a job: one image, and the options that the provider documents."""

import base64
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NoReturn, get_args
from urllib.parse import urlsplit

from receiver.config import HEADER_NAME
from receiver.core.completion import MAX_URL
from receiver.core.errors import InvalidRequestError

Factor = Literal[2, 4, 8]
Mode = Literal["artifact_removal", "ironed_out", "high_fidelity"]
ModelType = Literal["classic", "gan"]
ImageFormat = Literal["png", "jpg", "webp"]

_CHOICES = {
    "factor": get_args(Factor),
    "mode": (*get_args(Mode), None),
    "model_type": (*get_args(ModelType), None),
    "image_format": (*get_args(ImageFormat), None),
    "tune_colors": (True, False, None),
}
# RFC 9110, 5.5, without obs-text. Empty values are refused: they prove nothing.
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where the provider sends the completion, with headers that can prove the sender.

    Raises:
        InvalidRequestError: names the invalid field, without its value.
    """

    endpoint: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        _check_url("webhook.endpoint", self.endpoint)
        if not isinstance(self.headers, Mapping):
            _refuse("webhook.headers", "is no map")
        for name, value in self.headers.items():
            if not isinstance(name, str) or HEADER_NAME.fullmatch(name) is None:
                _refuse("webhook.headers", "holds a name that no header can have")
            if not isinstance(value, str) or _HEADER_VALUE.fullmatch(value) is None:
                _refuse("webhook.headers", f"{name[:100]} has no value of printable ASCII")


@dataclass(frozen=True, slots=True)
class Options:
    """How an image is to be upscaled. An option that is ``None`` is left to the provider.

    The keys of a list's images hold all fields, in this order.

    Attributes:
        image_quality: 1 to 100; only together with a format.
        tune_colors: whether the result's colours are matched to the image's.
    """

    factor: Factor = 2
    model_type: ModelType | None = None
    mode: Mode | None = None
    image_format: ImageFormat | None = None
    image_quality: int | None = None
    tune_colors: bool | None = None


@dataclass(frozen=True, slots=True)
class Upscale:
    """One job to submit; ``image`` is a URL that the provider can reach, or the bytes themselves.

    Raises:
        InvalidRequestError: names the field that the provider would not accept.
    """

    image: str | bytes = field(repr=False)
    options: Options = Options()
    webhook: Webhook | None = None

    def __post_init__(self) -> None:
        if isinstance(self.image, str):
            _check_url("image", self.image)
        elif not isinstance(self.image, bytes) or not self.image:
            _refuse("image", "is neither a URL nor the bytes of an image")
        for name, allowed in _CHOICES.items():
            value = getattr(self.options, name)
            if value not in allowed or type(value) not in map(type, allowed):
                choices = ", ".join(str(choice) for choice in allowed if choice is not None)
                _refuse(name, f"is none of {choices}")
        quality = self.options.image_quality
        if quality is not None:
            if type(quality) is not int or not 1 <= quality <= 100:
                _refuse("image_quality", "is no whole number from 1 to 100")
            if self.options.image_format is None:
                _refuse("image_quality", "is given without image_format")
        if self.webhook is not None and not isinstance(self.webhook, Webhook):
            _refuse("webhook", "is no Webhook")

    def body(self) -> dict[str, Any]:
        """Return the request as JSON values. Bytes of an image become base64, a third larger."""
        if isinstance(self.image, bytes):
            record = {"_base64": base64.b64encode(self.image).decode("ascii")}
        else:
            record = {"_url": self.image}
        given = {name: value for name, value in asdict(self.options).items() if value is not None}
        endpoint = f"upscale_{given.pop('factor')}x"
        body: dict[str, Any] = {"type": "upscaler", "endpoint": endpoint, **given, "records": [record]}
        if self.webhook is not None:
            body["webhook"] = {"endpoint": self.webhook.endpoint, "headers": dict(self.webhook.headers)}
        return body


def _check_url(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.isprintable() or " " in value or len(value) > MAX_URL:
        _refuse(name, "is no URL")
    try:
        url = urlsplit(value)
        known = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        known = False
    if not known:
        _refuse(name, "is no http(s) URL")


def _refuse(name: str, problem: str) -> NoReturn:
    # From None: a library's text about a value may repeat it.
    raise InvalidRequestError(f"{name} {problem}.") from None
