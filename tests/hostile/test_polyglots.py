"""Images that are also a ZIP or a PDF, and texts in metadata that only look like something else."""

import io
import zipfile
from pathlib import Path

import pytest

from receiver.core.errors import ImageError
from receiver.verify.decoder import ExpectedSize, Limits, inspect
from receiver.verify.structure import scan
from tests.support.images import MAX_PIXELS, Bad, Good
from tests.support.polyglots import PLACES, a_zip, innocents, polyglots

BAD, GOOD = polyglots(), innocents()


@pytest.mark.parametrize("image", BAD, ids=lambda image: image.name)
def test_what_another_program_would_open_is_refused(image: Bad) -> None:
    with pytest.raises(ImageError) as refused:
        scan(io.BytesIO(image.data))
    assert refused.value.reason == image.reason, refused.value


@pytest.mark.parametrize("image", GOOD, ids=lambda image: image.name)
def test_what_cameras_and_editors_write_is_none(image: Good, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(image.data)
    header = inspect(path, ExpectedSize(image.width, image.height), Limits(MAX_PIXELS))
    assert header.format == image.format


@pytest.mark.parametrize("place", [place for place in PLACES if place != "png-palette"])
def test_the_hidden_archives_are_real_ones(place: str) -> None:
    """Else it would say little that they are refused."""
    with zipfile.ZipFile(io.BytesIO(PLACES[place](a_zip()))) as archive:
        assert archive.read("payload.html") == b"hidden"
