"""Sends messages by Apprise, in a process of its own that ends with them.

Apprise takes a second and 40 MB to load, and a channel that hangs cannot be stopped in a thread. URLs of
channels hold tokens: they go through the process's standard input, and only a channel's name is shown.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Literal

from receiver.core.errors import ConfigError

SECONDS = 45.0
"""How long messages may take, with the start of the process."""

Kind = Literal["failure", "warning", "success", "info"]


@dataclass(frozen=True, slots=True)
class Message:
    """A message for one channel: its name and URL, and in which colour services show it."""

    channel: str
    url: str = field(repr=False)
    title: str
    body: str
    kind: Kind = "info"


def named(urls: Sequence[str]) -> dict[str, str]:
    """Return the channels by names that hold nothing of their URLs but the scheme: ``slack 1``."""
    if urls and find_spec("apprise") is None:
        raise ConfigError(
            "RECEIVER_ALERT_URLS: needs the extra `alerts`: pip install 'upscale-receiver[alerts]'"
        )
    numbers: Counter[str] = Counter()
    found = {}
    for url in urls:
        scheme = url.partition("://")[0].lower()
        numbers[scheme] += 1
        found[f"{scheme} {numbers[scheme]}"] = url
    return found


async def send(
    messages: Sequence[Message], *, seconds: float = SECONDS, test: bool = False
) -> dict[str, str | None]:
    """Send the messages, all at once; return by channel what went wrong, or ``None``.

    With ``test`` nothing is sent: the URLs are only read.
    """
    results: dict[str, str | None]
    results = {message.channel: f"No answer within {seconds:g} seconds." for message in messages}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-m", "receiver.alerts.send"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # Apprise's own lines may hold tokens
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(seconds):
                request = {"test": test, "messages": [asdict(message) for message in messages]}
                process.stdin.write(json.dumps(request).encode() + b"\n")
                async for line in process.stdout:
                    channel, error = json.loads(line)
                    results[channel] = error
                if await process.wait():
                    failed = f"The process that sends ended with {process.returncode}."
                    results = {channel: error and failed for channel, error in results.items()}
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return results


async def check(channels: Mapping[str, str]) -> dict[str, str | None]:
    """Return by channel what is wrong with its URL, or ``None``."""
    return await send([Message(channel, url, "", "") for channel, url in channels.items()], test=True)
