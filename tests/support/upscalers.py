"""The providers beside the first as a program uses them: how a job is submitted to the stand-in of each."""

import base64
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from receiver.sandbox.pictures import draw
from receiver.sandbox.submits import FAULTS_HEADER
from tests.support.processes import PROVIDER_TOKEN, Receiver, Sandbox, settings

PICTURE = base64.b64encode(draw(3, (24, 18), "png")).decode()
DATA_URI = f"data:image/png;base64,{PICTURE}"


@dataclass(frozen=True, slots=True)
class Request:
    """How a job is asked for, and where its id stands in the answer."""

    path: str
    json: Mapping[str, Any]
    id_at: Sequence[str]
    query: Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = None


class Upscaler(ABC):
    """One provider.

    Attributes:
        options: of its sandbox.
        endpoint: what a job is announced with, where asking needs it.
    """

    name: ClassVar[str]
    options: ClassVar[Sequence[str]]
    endpoint: ClassVar[str | None] = None

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def own_settings(self, origin: str, folder: Path) -> dict[str, str]:
        """Return what switches it on."""

    @abstractmethod
    def request(self, target: str) -> Request:
        """Return the request for a job whose webhook is the target."""

    # What follows is the same for all.

    def settings(self, folder: Path, box: Sandbox, **more: str) -> dict[str, str]:
        """The settings of a receiver for it alone, which soon asks for silent jobs."""
        values = settings(
            folder,
            **{
                **self.own_settings(origin(box), folder),
                "RECEIVER_OVERDUE_AFTER": "1s",
                "RECEIVER_RECONCILE_EVERY": "1s",
                "RECEIVER_RECONCILE_RATE": "500",
                **more,
            },
        )
        del values["RECEIVER_WEBHOOK_HEADERS"]
        return values

    def target(self, receiver: Receiver) -> str:
        return f"{receiver.address}/webhooks/{self.name}"

    def submit(self, box: Sandbox, target: str, *faults: str) -> str:
        """Submits a picture for a job that meets these faults; gives its id in the ledger."""
        asked = self.request(target)
        answer = box.post(
            origin(box) + asked.path,
            params=asked.query,
            json=asked.json,
            headers={**(asked.headers or {}), **({FAULTS_HEADER: ",".join(faults)} if faults else {})},
        )
        found = answer.raise_for_status().json()
        for name in asked.id_at:
            found = found[name]
        return f"{self.name}:{found}"

    def announce(self, receiver: Receiver, job_id: str) -> Any:
        body = {"id": job_id.partition(":")[2], "provider": self.name}
        if self.endpoint is not None:
            body["endpoint"] = self.endpoint
        return receiver.post("/jobs", json=body).raise_for_status().json()


def origin(box: Sandbox) -> str:
    return str(box.base_url.copy_with(path="/")).rstrip("/")


def states(receiver: Receiver, ids: Sequence[str]) -> dict[str, str]:
    """The states in which these jobs end."""
    return {job_id: receiver.ended(job_id)["state"] for job_id in ids}


def number_of_jobs(receiver: Receiver) -> int:
    return len(receiver.get("/jobs").json()["jobs"])


class Replicate(Upscaler):
    name = "replicate"
    secret = "whsec_Y2FuYXJ5LW9mLXRoZS13ZWJob29rLTAx"
    options = ("--provider", "replicate", "--secret", secret)

    def own_settings(self, origin: str, folder: Path) -> dict[str, str]:  # noqa: ARG002 - not needed here
        return {
            "REPLICATE_WEBHOOK_SECRET": self.secret,
            "REPLICATE_API_TOKEN": PROVIDER_TOKEN,
            "REPLICATE_API_URL": f"{origin}/v1",
        }

    def request(self, target: str) -> Request:
        body = {"version": "any", "input": {"image": DATA_URI, "scale": 2}, "webhook": target}
        return Request("/v1/predictions", body, ["id"])


class Fal(Upscaler):
    name = "fal"
    options = ("--provider", "fal")
    endpoint = "fal-ai/topaz/upscale/image"

    def own_settings(self, origin: str, folder: Path) -> dict[str, str]:  # noqa: ARG002 - not needed here
        return {
            "FAL_JWKS_URL": f"{origin}/.well-known/jwks.json",
            "FAL_KEY": PROVIDER_TOKEN,
            "FAL_API_URL": origin,
        }

    def request(self, target: str) -> Request:
        return Request(
            f"/{self.endpoint}",
            {"image_url": DATA_URI},
            ["request_id"],
            {"fal_webhook": target},
            {"Authorization": f"Key {PROVIDER_TOKEN}"},
        )


class Freepik(Upscaler):
    name = "freepik"
    secret = "fixture-of-freepik-secret"
    options = ("--provider", "freepik", "--secret", secret)

    def own_settings(self, origin: str, folder: Path) -> dict[str, str]:  # noqa: ARG002 - not needed here
        return {**self._secrets(), "FREEPIK_API_URL": origin}

    def request(self, target: str) -> Request:
        return Request(
            "/v1/ai/image-upscaler",
            {"image": PICTURE, "webhook_url": target},
            ["data", "task_id"],
            headers={"x-freepik-api-key": PROVIDER_TOKEN},
        )

    def _secrets(self) -> dict[str, str]:
        prefix = self.name.upper()
        return {
            f"{prefix}_WEBHOOK_SECRET": f"another-secret,{self.secret}",
            f"{prefix}_API_KEY": PROVIDER_TOKEN,
        }


class Described(Freepik):
    """The same by a description of one's own."""

    name = "mine"
    shipped = Path(__file__).parents[2] / "receiver" / "providers" / "freepik" / "freepik.toml"

    def own_settings(self, origin: str, folder: Path) -> dict[str, str]:
        text = self.shipped.read_text("utf-8").replace("FREEPIK_", "MINE_").replace('"freepik"', '"mine"')
        path = folder / "mine.toml"
        path.write_text(text.replace("https://api.freepik.com", origin), "utf-8")
        return {**self._secrets(), "RECEIVER_PROVIDERS": str(path)}


REPLICATE, FAL, FREEPIK, DESCRIBED = Replicate(), Fal(), Freepik(), Described()
EVERY: Sequence[Upscaler] = (REPLICATE, FAL, FREEPIK)
