"""What the demo submits is taken by each stand-in, and ends in a delivery of the job that it names."""

from typing import Any

import httpx
import pytest

from receiver.sandbox.options import SECRET_VARIABLES, Options, ProviderName
from receiver.sandbox.pictures import draw
from receiver.sandbox.trials import TRIALS
from tests.sandbox.harness import Neighbour, opened, serving
from tests.support.processes import TRUST


def urls(value: Any) -> list[str]:
    """All URLs of results in a body, however deep."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [url for each in inner for url in urls(each)]
    return [value] if isinstance(value, str) and value.partition("?")[0].endswith(".jpg") else []


@pytest.mark.parametrize("provider", ProviderName)
def test_a_trials_picture_is_upscaled_and_delivered(near: Neighbour, provider: ProviderName) -> None:
    trial = TRIALS[provider]()
    secrets = (trial.secret,) if provider in SECRET_VARIABLES else ()
    options = Options(provider=provider, token=trial.token, secrets=secrets, delay=0)
    submit = trial.submit(draw(1, (40, 30), "jpg"), 4, near.webhook, "a reference")
    with serving(options) as own, httpx.Client(base_url=own, verify=TRUST, trust_env=False) as client:
        answer = client.post(**submit).raise_for_status()
        while not (found := urls(delivery := near.take().body)):
            pass
        own_id = trial.job_id(answer.json()).removeprefix(f"{provider}:")
        assert own_id in delivery.values()
        prefix = "" if provider is ProviderName.XIMILAR else f"{provider}:"
        assert trial.job_id(answer.json()) == prefix + own_id
        assert opened(client.get(found[0]).content).size == (160, 120)
