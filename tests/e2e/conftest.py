from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from receiver.sandbox.pictures import draw
from tests.sandbox.harness import Neighbour, neighbour
from tests.support.processes import Programs, Receiver, Sandbox, settings

SIZE = (64, 48)
"""Width and height of the picture that `hosted` serves."""

LAST_OF_A_LOG = 6_000

STARTED = pytest.StashKey[list[Programs]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attaches the logs of the processes that the test used to a failure."""
    report = yield
    if report.failed:
        used = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Programs)]
        for programs in used or item.session.stash.get(STARTED, []):
            for program in programs.started:
                title = f"{program.name} {program.pid}"
                report.sections.append((title, program.log[-LAST_OF_A_LOG:]))
    return report


def _kept(request: pytest.FixtureRequest, programs: Programs) -> Iterator[Programs]:
    kept = request.session.stash.setdefault(STARTED, [])
    kept.append(programs)
    yield programs
    kept.remove(programs)


@pytest.fixture
def programs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Programs]:
    """Starts processes for one test."""
    yield from _kept(request, Programs(tmp_path))


@pytest.fixture(scope="session")
def shared_programs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Programs]:
    yield from _kept(request, Programs(tmp_path_factory.mktemp("shared")))


@pytest.fixture(scope="session")
def receiver(shared_programs: Programs) -> Iterator[Receiver]:
    """One for tests that keep to jobs of their own."""
    with shared_programs.receiver(settings(shared_programs.folder)) as receiver:
        yield receiver


@pytest.fixture(scope="session")
def box(shared_programs: Programs) -> Iterator[Sandbox]:
    """A sandbox in which each job says itself what goes wrong with it."""
    with shared_programs.sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def near() -> Iterator[Neighbour]:
    """A host of images on loopback, whose downloads can be held up."""
    with neighbour() as it:
        yield it


@pytest.fixture(scope="session")
def picture() -> bytes:
    return draw(7, SIZE, "png")


@pytest.fixture
def hosted(near: Neighbour, picture: bytes) -> str:
    """The URL of a picture of `SIZE`."""
    return near.serve(picture)
