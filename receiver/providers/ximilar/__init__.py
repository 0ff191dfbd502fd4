"""Ximilar's Upscaler: its completions, and a client of its documented API (submit, get, status, list)."""

from receiver.providers.ximilar.client import OnResult, Ximilar, ignore_result
from receiver.providers.ximilar.request import Factor, ImageFormat, Mode, ModelType, Upscale, Webhook
from receiver.providers.ximilar.responses import Listing, Report, Row, Submitted

__all__ = [
    "Factor",
    "ImageFormat",
    "Listing",
    "Mode",
    "ModelType",
    "OnResult",
    "Report",
    "Row",
    "Submitted",
    "Upscale",
    "Webhook",
    "Ximilar",
    "ignore_result",
]
