"""Verifies in child processes that a file is the promised image, so that no image can harm another.

``anyio.to_process`` does not do: its worker runs the parent's main module again (here the whole command
line), inherits the terminal's Ctrl-C, ends by itself only between two calls, and its pool cannot be closed.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from receiver.core.errors import ImageError, SpoolError
from receiver.verify.decoder import ExpectedSize, Limits
from receiver.verify.structure import Header

_START_SECONDS = 30

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

DECODER = (
    sys.executable,
    "-P",  # the working directory is no place to import from
    "-m",
    "receiver.verify.decoder",
)


class Verifier(AbstractAsyncContextManager["Verifier"]):
    """Inspects so many images at a time in child ``processes``, which are started on demand and reused."""

    def __init__(self, limits: Limits, *, processes: int = 2, command: Sequence[str] = DECODER) -> None:
        self._limits = limits
        self._command = command
        self.error: SpoolError | None = None
        """Why no child could be started when one was last needed."""
        self._slots = asyncio.Semaphore(processes)
        self._idle: list[_Child] = []
        self._children: set[_Child] = set()
        self._closed = False

    @property
    def pids(self) -> frozenset[int]:
        return frozenset(child.pid for child in self._children)

    async def verify(self, path: Path, expected: ExpectedSize) -> Header:
        """Inspect one file. Cancelling it kills the child that does it.

        Raise `ImageError` where the file is not the promised image, or its decoding took too much time or
        memory, `SpoolError` where it cannot be read, or no child can be started (``spool.no_decoder``).
        """
        return await self._answer({"path": str(path), "expected": expected._asdict()})

    async def thumbnail(self, path: Path, target: Path, side: int) -> Header:
        """Write a WebP thumbnail, at most ``side`` pixels wide and high. Raise the same as `verify`."""
        return await self._answer({"path": str(path), "thumbnail": str(target), "side": side})

    async def probe(self) -> None:
        """Start a child, unless one is idle. Raise `SpoolError` if none can be started."""
        async with self._slots:
            if not self._idle:
                self._idle.append(await self._start())

    async def _answer(self, task: Mapping[str, object]) -> Header:
        request = {**task, "limits": self._limits._asdict()}
        async with self._slots:
            child = self._idle.pop() if self._idle else await self._start()
            try:
                return await self._ask(child, request)
            except _ChildDiedError:
                # It need not have been this image: an idle child can be killed too, and the out-of-memory
                # killer takes the largest process. A fresh one decides.
                child = await self._start()
            try:
                return await self._ask(child, request)
            except _ChildDiedError as error:
                detail = "The image ends the process that decodes it."
                raise ImageError("image.undecodable", detail) from error

    async def aclose(self) -> None:
        """Kill all children and wait for their end. Nothing can be verified afterwards."""
        self._closed = True
        self._idle.clear()
        for child in list(self._children):
            await self._end(child)

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _start(self) -> "_Child":
        self._assert_open()
        try:
            child = await _spawn(self._command)
        except OSError as error:
            raise self._no_decoder(f"No decoder can be started: {error.strerror}.") from error
        self._children.add(child)
        try:
            self._assert_open()  # again: it may have been closed while the child was being started
            async with asyncio.timeout(_START_SECONDS):
                await child.ready()
        except BaseException as error:
            await self._end(child)
            if isinstance(error, _ChildDiedError | TimeoutError):
                raise self._no_decoder("A decoder ended while it started; see its own message.") from error
            raise
        self.error = None
        return child

    def _no_decoder(self, detail: str) -> SpoolError:
        self.error = SpoolError("spool.no_decoder", detail)
        return self.error

    def _assert_open(self) -> None:
        if self._closed:
            raise RuntimeError("the verifier is closed")

    async def _ask(self, child: "_Child", request: object) -> Header:
        try:
            async with asyncio.timeout(self._limits.max_seconds):
                answer = await child.ask(request)
        except TimeoutError as error:
            await self._end(child)
            detail = f"The image was not decoded within {self._limits.max_seconds:g} seconds."
            raise ImageError("image.undecodable", detail) from error
        except BaseException:
            # Cancelled, or dead: its next line would not be the answer to the next request.
            await self._end(child)
            raise
        self._idle.append(child)
        if isinstance(answer, Header):
            return answer
        raise answer

    async def _end(self, child: "_Child") -> None:
        self._children.discard(child)
        await child.end()


class _ChildDiedError(Exception):
    """The child ended, or wrote something that is no answer."""


class _Child:
    def __init__(self, process: subprocess.Popen[bytes], streams: _Streams) -> None:
        self._process = process
        self._reader, self._writer = streams
        self.pid = process.pid

    async def ready(self) -> None:
        if await self._line() != b"ready\n":
            raise _ChildDiedError

    async def ask(self, request: object) -> Header | ImageError | SpoolError:
        try:
            self._writer.write(json.dumps(request).encode() + b"\n")
            await self._writer.drain()
        except ConnectionError as error:
            raise _ChildDiedError from error
        return _parse(await self._line())

    async def end(self) -> None:
        self._process.kill()
        self._writer.close()
        await asyncio.to_thread(self._process.wait)

    async def _line(self) -> bytes:
        try:
            line = await self._reader.readline()
        except (ConnectionError, ValueError) as error:  # ValueError: a line longer than the reader's limit
            raise _ChildDiedError from error
        if not line.endswith(b"\n"):
            raise _ChildDiedError
        return line


def _parse(line: bytes) -> Header | ImageError | SpoolError:
    """Read an answer. A child that a hostile image took over may write anything, and counts as dead."""
    try:
        answer = json.loads(line)
        if "header" in answer:
            return Header(**answer["header"])
        family = SpoolError if answer["reason"].startswith("spool.") else ImageError
        return family(answer["reason"], answer["detail"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _ChildDiedError from error


async def _spawn(command: Sequence[str]) -> _Child:
    # The parent's module path, so that the child finds the same code however the parent was started, and the
    # variables that the loader and the encoding of file names need. No secret reaches a process that reads
    # untrusted files.
    kept = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    # Each thread of libvips would else reserve address space of its own, which the limit of memory counts.
    environment["MALLOC_ARENA_MAX"] = "1"
    # Strips of pixels go back to the system at once; glibc would else keep several times as many.
    environment["MALLOC_MMAP_THRESHOLD_"] = str(128 << 10)
    ours, theirs = socket.socketpair()
    with theirs:
        streams = await asyncio.open_unix_connection(sock=ours)
        try:
            # uvloop's would fork, and copy all of the parent's page tables while no delivery is answered.
            process = subprocess.Popen(  # noqa: ASYNC220, S603 - it takes a millisecond; no input is in it
                command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                env=environment,
                start_new_session=True,  # a Ctrl-C on the terminal is the parent's, from the first moment
            )
        except BaseException:
            streams[1].close()
            raise
    return _Child(process, streams)
