"""The provider's API, as its page describes it (Ximilar, "Upscaler"): submit, get, status, list."""

from receiver.providers.ximilar.answers import Listing, Report, Row, Submitted
from receiver.providers.ximilar.client import Heard, Ximilar, unheard
from receiver.providers.ximilar.request import Factor, ImageFormat, Mode, ModelType, Upscale, Webhook

__all__ = [
    "Factor",
    "Heard",
    "ImageFormat",
    "Listing",
    "Mode",
    "ModelType",
    "Report",
    "Row",
    "Submitted",
    "Upscale",
    "Webhook",
    "Ximilar",
    "unheard",
]
