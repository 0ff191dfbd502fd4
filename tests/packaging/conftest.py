from collections.abc import Iterator
from pathlib import Path

import pytest

from receiver.sandbox.pictures import draw
from tests.e2e.conftest import SIZE, _kept, pytest_runtest_makereport
from tests.sandbox.harness import Neighbour, neighbour
from tests.support.processes import Programs

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture
def programs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Programs]:
    """Starts processes for one test."""
    yield from _kept(request, Programs(tmp_path))


@pytest.fixture
def near() -> Iterator[Neighbour]:
    """A host of images on loopback."""
    with neighbour() as it:
        yield it


@pytest.fixture
def hosted(near: Neighbour) -> str:
    """The URL of a picture of `SIZE`."""
    return near.serve(draw(7, SIZE, "png"))
