"""The container image is built and run for real, where the machine has the tools for it."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("build-and-run-image")
CANNOT = 77


@pytest.mark.needs_docker
@pytest.mark.timeout(900)
def test_the_image_builds_serves_is_healthy_and_ends_on_sigterm() -> None:
    if os.environ.get("RECEIVER_TEST_IMAGE") != "1":
        pytest.skip(f"takes minutes: asked for by RECEIVER_TEST_IMAGE=1, or by hand as {SCRIPT.name}")
    done = subprocess.run(
        [SCRIPT],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode == CANNOT:
        pytest.skip(done.stdout.strip().rpartition("\n")[2])
    assert done.returncode == 0, done.stdout[-4000:]
    assert done.stdout.endswith("The image builds and runs.\n")
