"""The other side of each stand-in: the settings of a receiver for it, and how a program submits to it."""

import base64
import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from receiver.sandbox.options import SECRET_VARIABLES, TOKEN_VARIABLES, ProviderName


class Trial(ABC):
    """A sandbox and a receiver that share fresh secrets.

    Attributes:
        endpoint: the model, where a job cannot be asked for without it.
        urls: the receiver's settings that lead to the sandbox, with their paths there.
        id_at: where the answer to a submit has the job's id.
    """

    provider: ClassVar[ProviderName]
    endpoint: ClassVar[str | None] = None
    urls: ClassVar[Mapping[str, str]]
    id_at: ClassVar[Sequence[str]] = ("id",)

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(16)
        self.secret = secrets.token_urlsafe(16)

    def shared(self) -> dict[str, str]:
        variables = {TOKEN_VARIABLES[self.provider]: self.token}
        if self.provider in SECRET_VARIABLES:
            variables[SECRET_VARIABLES[self.provider]] = self.secret
        return variables

    def settings(self, sandbox: str) -> dict[str, str]:
        """Return the receiver's settings beside the shared ones, by the sandbox's address."""
        return {name: sandbox + path for name, path in self.urls.items()}

    @abstractmethod
    def submit(self, picture: bytes, factor: int, webhook: str, ref: str) -> dict[str, Any]:
        """Return the POST that submits a picture, as httpx takes it, by its path at the sandbox.

        ``webhook`` is the receiver's URL for this provider.
        """

    def job_id(self, answer: Any) -> str:
        """Return the job's id at the receiver, by the JSON of the answer to its submit."""
        for key in self.id_at:
            answer = answer[key]
        return f"{self.provider}:{answer}"


class XimilarTrial(Trial):
    """Ximilar sends the headers of the submit, which prove the delivery and carry its reference."""

    provider = ProviderName.XIMILAR
    urls: ClassVar[Mapping[str, str]] = {"XIMILAR_API_URL": "/account/v2"}

    def settings(self, sandbox: str) -> dict[str, str]:
        headers = json.dumps({"X-Webhook-Secret": self.secret})
        return {"RECEIVER_WEBHOOK_HEADERS": headers, **super().settings(sandbox)}

    def submit(self, picture: bytes, factor: int, webhook: str, ref: str) -> dict[str, Any]:
        headers = {"X-Webhook-Secret": self.secret, "X-Receiver-Ref": ref}
        body = {
            "type": "upscaler",
            "endpoint": f"upscale_{factor}x",
            "records": [{"_base64": base64.b64encode(picture).decode()}],
            "webhook": {"endpoint": webhook, "headers": headers},
        }
        sent = {"Authorization": f"Token {self.token}"}
        return {"url": "/account/v2/request", "headers": sent, "json": body}

    def job_id(self, answer: Any) -> str:
        return str(answer["id"])


class ReplicateTrial(Trial):
    """Replicate posts the ends alone, since that is what it is asked for."""

    provider = ProviderName.REPLICATE
    urls: ClassVar[Mapping[str, str]] = {"REPLICATE_API_URL": "/v1"}

    def __init__(self) -> None:
        super().__init__()
        self.secret = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()

    def submit(self, picture: bytes, factor: int, webhook: str, _ref: str) -> dict[str, Any]:
        body = {
            "version": "sandbox",
            "input": {"image": _data_uri(picture), "scale": factor},
            "webhook": webhook,
            "webhook_events_filter": ["completed"],
        }
        headers = {"Authorization": f"Bearer {self.token}"}
        return {"url": "/v1/predictions", "headers": headers, "json": body}


class FalTrial(Trial):
    """fal.ai signs with keys that the receiver reads from the sandbox."""

    provider = ProviderName.FAL
    endpoint = "fal-ai/esrgan"
    urls: ClassVar[Mapping[str, str]] = {"FAL_JWKS_URL": "/.well-known/jwks.json", "FAL_API_URL": ""}
    id_at = ("request_id",)

    def submit(self, picture: bytes, factor: int, webhook: str, _ref: str) -> dict[str, Any]:
        body = {"image_url": _data_uri(picture), "scale": factor}
        headers = {"Authorization": f"Key {self.token}"}
        query = {"fal_webhook": webhook}
        return {"url": f"/{self.endpoint}", "params": query, "headers": headers, "json": body}


class FreepikTrial(Trial):
    """Freepik posts each change of a task's status."""

    provider = ProviderName.FREEPIK
    urls: ClassVar[Mapping[str, str]] = {"FREEPIK_API_URL": ""}
    id_at = ("data", "task_id")

    def submit(self, picture: bytes, factor: int, webhook: str, _ref: str) -> dict[str, Any]:
        image = base64.b64encode(picture).decode()
        body = {"image": image, "scale_factor": f"{factor}x", "webhook_url": webhook}
        headers = {"x-freepik-api-key": self.token}
        return {"url": "/v1/ai/image-upscaler", "headers": headers, "json": body}


TRIALS: Mapping[ProviderName, type[Trial]] = {
    trial.provider: trial for trial in (XimilarTrial, ReplicateTrial, FalTrial, FreepikTrial)
}


def _data_uri(picture: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(picture).decode()
