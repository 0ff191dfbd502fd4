"""What counts as the promised image, and what a hostile image can do to the decoding process."""

import asyncio
import contextlib
import io
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import uvloop
from PIL import Image

from receiver.core.errors import ImageError, SpoolError
from receiver.verify import structure
from receiver.verify.decoder import ExpectedSize, Limits, inspect
from receiver.verify.structure import Header, scan
from receiver.verify.verifier import Verifier
from tests.support import images
from tests.support.images import Bad, Good
from tests.support.memory import MIB, resident
from tests.support.processes import PATIENCE

T = TypeVar("T")

PAUSE = 0.002
"""Seconds between two questions, so that the asking is no load of its own."""

LIMITS = Limits(images.MAX_PIXELS)
ROOT = Path(__file__).parents[2]
GOOD, BAD = images.good(), images.bad()
DATA = Path(__file__).with_name("written_images")
WRITTEN = json.loads((DATA / "manifest.json").read_text("utf-8"))


def verdict(path: Path, promise: ExpectedSize, limits: Limits = LIMITS) -> str:
    try:
        inspect(path, promise, limits)
    except ImageError as error:
        return error.reason
    return "good"


@pytest.mark.parametrize("image", GOOD, ids=lambda image: image.name)
def test_a_good_image_is_what_its_bytes_say(image: Good, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(image.data)

    header = inspect(path, ExpectedSize(image.width, image.height), LIMITS)

    assert (header.format, header.width, header.height) == (image.format, image.width, image.height)
    assert inspect(path, ExpectedSize(), LIMITS) == header


@pytest.mark.parametrize("image", BAD, ids=lambda image: image.name)
def test_a_bad_image_is_refused_with_its_reason(image: Bad, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(image.data)

    assert verdict(path, image.promise) == image.reason


@pytest.mark.parametrize("written", WRITTEN, ids=lambda written: written["file"])
def test_what_real_tools_write_is_judged_right(written: dict[str, str]) -> None:
    """The manifest names each file's tool with its version, and the damage that was done to it afterwards."""
    assert (verdict(DATA / written["file"], ExpectedSize()) == "good") == (written["expect"] == "good")


def test_details_name_no_path_and_no_class() -> None:
    for written in WRITTEN:
        if written["expect"] == "bad":
            with pytest.raises(ImageError) as refused:
                inspect(DATA / written["file"], ExpectedSize(), LIMITS)
            assert not re.search(r"[/_<>]|vips", refused.value.detail, re.IGNORECASE)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_a_picture_that_exif_turns_may_be_promised_as_it_is_shown(fmt: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    exif = images.picture().getexif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        path.write_bytes(images.encode(images.picture(), fmt, exif=exif))
        shown = verdict(path, ExpectedSize(images.HEIGHT, images.WIDTH))
        assert shown == ("good" if orientation >= 5 else "image.wrong_size")
        assert verdict(path, ExpectedSize(images.WIDTH, images.HEIGHT)) == "good"


def test_harmless_bytes_behind_the_end_are_counted() -> None:
    for data in (images.jpeg(), images.png(), images.webp()):
        assert scan(io.BytesIO(data)).trailing == 0
        assert scan(io.BytesIO(data + b"\r\n" + bytes(600_000))).trailing == 600_002


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypmp42", "a video or sound in MP4"),
        (b"\0\0\0\x18ftypavif", "an AVIF image"),
        (b"\0\0\0\x18ftypheic", "a HEIC image"),
        (b"\x1a\x45\xdf\xa3", "a video or sound in WebM"),
        (b"RIFF\n\0\0\0WAVE", "sound in WAV"),
        (b"GIF89a", "a GIF"),
        (b"<!doctype html>", None),
        (b"", None),
    ],
)
def test_what_is_no_image_is_named(head: bytes, name: str | None) -> None:
    with pytest.raises(ImageError) as refused:
        scan(io.BytesIO(head + bytes(20)))
    assert refused.value.reason == "image.unknown_format"
    assert ("but" in refused.value.detail) == (name is not None)
    assert name is None or name in refused.value.detail


@pytest.mark.parametrize(
    "options", [{"quality": 95}, {"quality": 80, "progressive": True}, {"subsampling": 0}]
)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_whose_scan_was_cut_is_refused_though_it_ends_well(
    mode: str, options: dict[str, int], tmp_path: Path
) -> None:
    path = tmp_path / "image"
    # The last rows are no whole eight: a decoder that shrinks may leave them out.
    noise = Image.effect_noise((173, 131), 60).convert(mode)
    data = images.encode(noise, "JPEG", **options)
    for share in (50, 75, 99):
        path.write_bytes(data[: len(data) * share // 100] + b"\xff\xd9")
        assert verdict(path, ExpectedSize()) == "image.corrupt", share
    tables = images.jpeg_segment(data, b"\xff\xc4")
    path.write_bytes(images.swap(data, tables, b""))
    assert verdict(path, ExpectedSize()) == "image.corrupt"


@pytest.mark.parametrize(("width", "height"), [(9, 65_500), (9, 65_497), (65_500, 9)])
def test_a_cut_in_the_last_blocks_of_the_largest_jpegs_is_refused(
    width: int, height: int, tmp_path: Path
) -> None:
    path = tmp_path / "image"
    data = images.encode(Image.effect_noise((width, height), 60), "JPEG")
    path.write_bytes(data[:-20] + b"\xff\xd9")
    assert verdict(path, ExpectedSize()) == "image.corrupt"


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize(
    ("width", "height"), [(3, 2), (9, 9), (1, 5), (structure._BLOCK // 3, 3), (400, 700)]
)
def test_an_unknown_filter_is_seen_in_every_row(width: int, height: int, interlace: int) -> None:
    passes = images.PASSES if interlace else ((0, 0, 1, 1),)
    columns_and_rows = [(len(range(x, width, dx)), len(range(y, height, dy))) for x, y, dx, dy in passes]
    lengths = [1 + columns * 3 for columns, rows in columns_and_rows if columns for _ in range(rows)]
    # Pixels of 5 and more are no filters.
    pixels = bytearray(b"".join(bytes([row % 5]) + b"\xff" * (n - 1) for row, n in enumerate(lengths)))

    def scanned() -> Header:
        data = images.png(width, height, interlace=interlace, pixels=bytes(pixels), level=0)
        return scan(io.BytesIO(data))

    assert (scanned().width, scanned().height) == (width, height)
    starts = [sum(lengths[:row]) for row in range(len(lengths))]
    for start in starts if len(starts) < 50 else [starts[0], starts[437], starts[-1]]:
        kept, pixels[start] = pixels[start], 5
        with pytest.raises(ImageError, match="filter"):
            scanned()
        pixels[start] = kept


def test_the_corpora_are_as_large_as_they_are_meant_to_be() -> None:
    assert len({image.name for image in GOOD}) == len(GOOD) >= 60
    assert len({image.name for image in BAD}) == len(BAD) >= 80


@pytest.mark.parametrize(
    "name", ["jpeg-baseline", "jpeg-progressive", "png-many-idats", "webp-lossy", "webp-all"]
)
def test_no_cut_at_any_byte_goes_unseen(name: str) -> None:
    (data,) = (image.data for image in GOOD if image.name == name)
    for length in range(len(data)):
        expected = "image.unknown_format" if length < _signature(data) else "image.truncated"
        with pytest.raises(ImageError) as refused:
            scan(io.BytesIO(data[:length]))
        assert refused.value.reason == expected, length


def _signature(data: bytes) -> int:
    return 3 if data.startswith(b"\xff") else 8 if data.startswith(b"\x89") else 12


@pytest.mark.parametrize("length", [k * structure._BLOCK + d for k in (1, 2) for d in range(-3, 4)])
@pytest.mark.parametrize("before_the_end", [b"", b"\xff\x00", b"\xff\xff", b"\xff\xd0"])
def test_a_marker_is_seen_wherever_the_blocks_of_the_scan_part(length: int, before_the_end: bytes) -> None:
    plain = images.jpeg()
    restart = b"\xff\xdd\x00\x04\x00\x01"  # a restart interval, so that FF D0 may stand in the data
    scan_header = images.jpeg_segment(plain, b"\xff\xda")
    head = plain[: plain.index(scan_header)] + restart + scan_header
    data = head + b"c" * (length - len(before_the_end)) + before_the_end + b"\xff\xd9"

    assert scan(io.BytesIO(data)).width == images.WIDTH
    with pytest.raises(ImageError, match=r"image\.truncated"):
        scan(io.BytesIO(data[:-1]))
    with pytest.raises(ImageError, match=r"image\.trailing_data"):
        scan(io.BytesIO(data + b"\0."))


@pytest.mark.parametrize("borders", [1, 2])
def test_a_hole_in_a_scan_is_seen_wherever_the_blocks_part(borders: int) -> None:
    plain = images.jpeg()
    scan_header = images.jpeg_segment(plain, b"\xff\xda")
    head = plain[: plain.index(scan_header)] + b"\xff\xdd\x00\x04\x00\x01" + scan_header
    for at in range(borders * structure._BLOCK - 700, borders * structure._BLOCK + 3):
        for size in (255, 256):
            restart = b"\xff\xd0"  # which is counted once, although a part of the block is read twice
            scanned = b"c" * at + bytes(size) + b"c" * 9 + restart + b"c" * 500 + b"\xff\xd1c\xff\xd9"
            if size == 255:
                assert scan(io.BytesIO(head + scanned)).width == images.WIDTH
            else:
                with pytest.raises(ImageError, match="run of zeros"):
                    scan(io.BytesIO(head + scanned))


@pytest.mark.parametrize("height", [64, 96, 128, 192, 256, 384])
def test_a_byte_behind_the_pixels_is_seen_where_these_fill_whole_blocks(height: int) -> None:
    pixels = zlib.compress(bytes(1024 * height))
    for behind, reason in ((b"", None), (b"x", "image.trailing_data")):
        idat = images.chunk(b"IDAT", pixels + behind)
        data = images.SIGNATURE + images.ihdr(1023, height, colour=0) + idat + images.chunk(b"IEND")
        if reason is None:
            assert scan(io.BytesIO(data)).height == height
        else:
            with pytest.raises(ImageError) as refused:
                scan(io.BytesIO(data))
            assert refused.value.reason == reason


def test_inflating_ends_where_the_header_says_that_the_pixels_end() -> None:
    # The stream is cut as well: who had read on to its end would have complained of that.
    stream = zlib.compress(bytes(10_000_000))[:-9]
    data = [images.SIGNATURE, images.ihdr(9, 9), images.chunk(b"IDAT", stream), images.chunk(b"IEND")]
    with pytest.raises(ImageError, match="more rows"):
        scan(io.BytesIO(b"".join(data)))


def test_no_changed_byte_of_a_png_goes_unseen() -> None:
    data = images.png(idats=3)
    for at in range(len(data)):
        with pytest.raises(ImageError):
            scan(io.BytesIO(data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :]))


def test_a_scan_takes_no_more_memory_for_a_larger_file() -> None:
    pixels = images.rows(3000, 3000, 24)
    files = [io.BytesIO(images.png(3000, 3000, pixels=pixels)), io.BytesIO(images.jpeg() + bytes(20_000_000))]
    for file in files:
        tracemalloc.start()
        with contextlib.suppress(ImageError):
            scan(file)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 3_000_000


def test_a_bomb_is_refused_before_its_pixels_are_read() -> None:
    class Refused(Exception):  # noqa: N818 - no error of the program
        pass

    def refuse(header: Header) -> None:
        assert (header.width, header.height) == (9000, 9000)
        raise Refused

    # Behind the header all is garbage: whoever reads on, says so.
    file = io.BytesIO(images.SIGNATURE + images.ihdr(9000, 9000) + b"garbage" * 99)
    with pytest.raises(Refused):
        scan(file, refuse)


def test_more_pixels_than_decoders_like_are_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(images.png(10_000, 10_000, depth=1, colour=0, pixels=bytes(10_000 * 1251)))

    with warnings.catch_warnings(record=True) as seen:
        assert verdict(path, ExpectedSize(), Limits(100_000_000)) == "good"
    assert not seen


def test_a_file_that_is_gone_is_the_spools_fault(tmp_path: Path) -> None:
    with pytest.raises(SpoolError) as lost:
        inspect(tmp_path / "absent", ExpectedSize(), LIMITS)
    assert lost.value.reason == "spool.lost"
    with pytest.raises(SpoolError) as unreadable:
        inspect(tmp_path, ExpectedSize(), LIMITS)
    assert unreadable.value.reason == "spool.disk"


# The child processes.


@pytest.fixture
async def verifier() -> AsyncIterator[Verifier]:
    async with Verifier(LIMITS) as verifier:
        yield verifier


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.png"
    path.write_bytes(images.png())
    return path


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A file that nobody gets open: what reads it waits for good."""
    path = tmp_path / "endless"
    os.mkfifo(path)
    return path


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """An image whose decode is long enough to be met in its midst."""
    path = tmp_path / "slow.jpg"
    Image.new("L", (10_000, 10_000), 100).save(path, progressive=True)
    return path


async def refusal(verifier: Verifier, path: Path, promise: ExpectedSize | None = None) -> str:
    with pytest.raises(ImageError) as refused:
        await verifier.verify(path, promise or ExpectedSize())
    return refused.value.reason


async def reader_of(path: Path, verifier: Verifier, task: "asyncio.Task[object]", besides: int = 0) -> int:
    """Waits until a child has the file open for this task, and returns its process id."""

    def readers() -> list[int]:
        return [pid for pid in verifier.pids - {besides} if _has_open(pid, path)]

    return (await _polled(readers, task))[0]


def _has_open(pid: int, path: Path) -> bool:
    try:
        return any(link.samefile(path) for link in Path(f"/proc/{pid}/fd").iterdir() if link.exists())
    except OSError:  # it ended, or closed something, while we looked
        return False


async def children(verifier: Verifier, *tasks: "asyncio.Task[object]") -> frozenset[int]:
    """Waits until each of these tasks has a child, and returns the children's process ids."""
    return await _polled(lambda: verifier.pids if len(verifier.pids) >= len(tasks) else frozenset(), *tasks)


async def _polled(found: Callable[[], T], *tasks: "asyncio.Task[object]") -> T:
    """What is found, asked again and again until it is true; the verifier tells nobody when it is.

    Raises:
        AssertionError: one of the tasks by which it becomes true has ended.
    """
    async with asyncio.timeout(PATIENCE):
        while not (it := found()):
            for task in tasks:
                assert not task.done(), task
            await asyncio.sleep(PAUSE)
    return it


async def test_many_at_once_get_each_its_own_verdict(verifier: Verifier, tmp_path: Path) -> None:
    corpus: list[Good | Bad] = [*GOOD, *BAD]

    async def judge(number: int, image: Good | Bad) -> str:
        path = tmp_path / str(number)
        path.write_bytes(image.data)
        try:
            await verifier.verify(path, image.promise if isinstance(image, Bad) else ExpectedSize())
        except ImageError as error:
            return error.reason
        return "good"

    found = await asyncio.gather(*(judge(number, image) for number, image in enumerate(corpus)))
    assert found == [image.reason if isinstance(image, Bad) else "good" for image in corpus]
    assert len(verifier.pids) == 2


async def test_a_child_is_kept_for_the_next_image(verifier: Verifier, small: Path) -> None:
    assert await verifier.verify(small, ExpectedSize(images.WIDTH, images.HEIGHT)) == Header("png", 61, 43)
    first = verifier.pids
    assert await refusal(verifier, small, ExpectedSize(1, 1)) == "image.wrong_size"
    with pytest.raises(SpoolError, match=r"spool\.lost"):
        await verifier.verify(small.with_name("absent"), ExpectedSize())
    assert verifier.pids == first


async def test_texts_of_any_size_take_no_memory(verifier: Verifier, tmp_path: Path) -> None:
    (tmp_path / "greedy").write_bytes(images.greedy_png())
    (tmp_path / "large").write_bytes(images.png(1000, 1000, colour=6))
    await verifier.verify(tmp_path / "large", ExpectedSize())
    (pid,) = verifier.pids
    before = resident(pid, "VmHWM")

    assert (await verifier.verify(tmp_path / "greedy", ExpectedSize())).format == "png"
    assert resident(pid, "VmHWM") < before + 20 * MIB


async def test_an_image_that_needs_more_memory_than_allowed_is_not_decoded(tmp_path: Path) -> None:
    async with Verifier(Limits(images.MAX_PIXELS, max_memory=1 << 20)) as verifier:
        for data in (images.jpeg(), images.webp()):
            (tmp_path / "image").write_bytes(data)
            assert await refusal(verifier, tmp_path / "image") == "image.undecodable"


@pytest.mark.parametrize("interlace", [0, 1])
async def test_a_png_of_any_size_takes_no_memory(interlace: int, small: Path, tmp_path: Path) -> None:
    columns_and_rows = [(len(range(x, 4000, dx)), len(range(y, 4000, dy))) for x, y, dx, dy in images.PASSES]
    rows = sum(rows for _, rows in columns_and_rows) if interlace else 4000
    path = tmp_path / "large.png"
    path.write_bytes(images.png(4000, 4000, interlace=interlace, pixels=bytes(4000 * 4000 * 3 + rows)))
    async with Verifier(Limits(100_000_000), processes=1) as verifier:
        await verifier.verify(small, ExpectedSize())
        (pid,) = verifier.pids
        before = resident(pid, "VmHWM")
        await verifier.verify(path, ExpectedSize(4000, 4000))
        assert resident(pid, "VmHWM") < before + 4 * MIB  # its pixels are 46 MiB


async def test_a_decode_that_runs_out_of_memory_says_nothing_of_the_image(
    small: Path, tmp_path: Path
) -> None:
    """It is not corrupt, and no reason to start another child: with memory the same one decodes it."""
    path = tmp_path / "large.jpg"
    Image.new("RGB", (4000, 4000), "teal").save(path, progressive=True)
    async with Verifier(Limits(100_000_000), processes=1) as verifier:
        await verifier.verify(small, ExpectedSize())
        (pid,) = verifier.pids
        had = resource.prlimit(pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, (resident(pid, "VmSize") + 16 * MIB, had[1]))
        assert await refusal(verifier, path) == "image.undecodable"

        resource.prlimit(pid, resource.RLIMIT_AS, had)
        assert (await verifier.verify(path, ExpectedSize())).width == 4000
        assert verifier.pids == {pid}


async def test_wide_pictures_are_decoded_in_strips(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "wide.jpg"
    Image.effect_noise((6000, 150), 60).resize((6000, 2400)).convert("RGB").save(path)
    async with Verifier(Limits(100_000_000), processes=1) as verifier:
        await verifier.verify(small, ExpectedSize())
        (pid,) = verifier.pids
        before = resident(pid, "VmHWM")
        await verifier.verify(path, ExpectedSize())
        assert resident(pid, "VmHWM") < before + 24 * MIB  # its pixels are 41 MiB


async def test_a_decode_that_does_not_end_is_killed_at_its_time(endless: Path, small: Path) -> None:
    async with Verifier(Limits(images.MAX_PIXELS, max_seconds=0.1), processes=1) as verifier:
        assert await refusal(verifier, endless) == "image.undecodable"
        assert not verifier.pids


async def test_a_cancelled_decode_leaves_no_process(endless: Path) -> None:
    async with Verifier(LIMITS) as verifier:
        task = asyncio.create_task(verifier.verify(endless, ExpectedSize()))
        (pid,) = await children(verifier, task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not verifier.pids
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_more_images_than_processes_wait_for_their_turn(endless: Path, small: Path) -> None:
    async with Verifier(LIMITS, processes=2) as verifier:
        stuck = [asyncio.create_task(verifier.verify(endless, ExpectedSize())) for _ in range(2)]
        await children(verifier, *stuck)
        waiting = asyncio.create_task(verifier.verify(small, ExpectedSize()))
        while len(verifier.pids) == 2 and not waiting.done():
            stuck[0].cancel()  # its place, and no third one, is what the waiting image gets
            await asyncio.sleep(0)
        assert (await waiting).format == "png"
        stuck[1].cancel()
        results = await asyncio.gather(*stuck, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 2


async def test_a_child_killed_in_mid_decode_is_replaced_and_the_image_judged(slow: Path) -> None:
    async with Verifier(Limits(200_000_000)) as verifier:
        task = asyncio.create_task(verifier.verify(slow, ExpectedSize()))
        os.kill(await reader_of(slow, verifier, task), signal.SIGKILL)
        assert (await task).width == 10_000


async def test_an_image_that_ends_two_children_is_undecodable(slow: Path, small: Path) -> None:
    async with Verifier(Limits(200_000_000)) as verifier:
        task = asyncio.create_task(refusal(verifier, slow))
        first = await reader_of(slow, verifier, task)
        os.kill(first, signal.SIGKILL)
        os.kill(await reader_of(slow, verifier, task, besides=first), signal.SIGKILL)
        assert await task == "image.undecodable"
        assert (await verifier.verify(small, ExpectedSize())).format == "png"


async def test_nothing_is_verified_after_the_close(small: Path, endless: Path) -> None:
    verifier = Verifier(LIMITS)
    task = asyncio.create_task(verifier.verify(endless, ExpectedSize()))
    await children(verifier, task)
    await verifier.aclose()
    assert not verifier.pids
    with pytest.raises((RuntimeError, SpoolError)):
        await task
    with pytest.raises(RuntimeError):
        await verifier.verify(small, ExpectedSize())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_an_idle_child_that_died_costs_no_verdict(loop: type, small: Path, endless: Path) -> None:
    async def scenario() -> None:
        async with Verifier(LIMITS, processes=1) as verifier:
            await verifier.verify(small, ExpectedSize())
            (pid,) = verifier.pids
            os.kill(pid, signal.SIGKILL)
            assert (await verifier.verify(small, ExpectedSize())).format == "png"
            assert verifier.pids
            assert pid not in verifier.pids

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


# A parent that ends in its own ways. It is a program of its own, started elsewhere than in the checkout.

PARENT = """
import asyncio, sys
from pathlib import Path
from receiver.verify.decoder import ExpectedSize, Limits
from receiver.verify.verifier import Verifier

async def main():
    async with Verifier(Limits(1_000_000)) as verifier:
        await verifier.verify(Path(sys.argv[1]), ExpectedSize())
        print(*verifier.pids, flush=True)
        await verifier.verify(Path(sys.argv[2]), ExpectedSize())

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""


@contextlib.contextmanager
def parent(small: Path, endless: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A program that waits for a verdict that never comes, and the process id of its child."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SOME_SECRET": "hunter2"}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, small, endless],
        cwd=small.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout
            yield process, int(process.stdout.readline())
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def ends(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 30)[0])


def test_the_child_ends_with_a_killed_parent_even_if_it_hangs(small: Path, endless: Path) -> None:
    with parent(small, endless) as (process, child):
        pidfd = os.pidfd_open(child)
        os.kill(child, signal.SIGSTOP)
        process.kill()
        try:
            assert ends(pidfd)
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


def test_an_interrupt_ends_parent_and_child_without_a_word(small: Path, endless: Path) -> None:
    with parent(small, endless) as (process, child):
        pidfd = os.pidfd_open(child)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (out, err, process.returncode) == ("interrupted\n", "", 0)
        assert ends(pidfd)
        os.close(pidfd)


def test_signals_that_are_meant_for_the_parent_do_not_end_the_child(small: Path) -> None:
    async def scenario() -> None:
        async with Verifier(LIMITS) as verifier:
            await verifier.verify(small, ExpectedSize())
            before = verifier.pids
            for pid in before:
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGINT)
            await verifier.verify(small, ExpectedSize())
            assert verifier.pids == before

    asyncio.run(scenario())


def test_the_child_is_told_no_secret(small: Path, endless: Path) -> None:
    with parent(small, endless) as (process, child):
        assert b"hunter2" in Path(f"/proc/{process.pid}/environ").read_bytes()
        assert b"hunter2" not in Path(f"/proc/{child}/environ").read_bytes()
