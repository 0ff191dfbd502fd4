"""``receiver alert``."""

import asyncio
from typing import Annotated

import typer

from receiver.alerts.channels import Message, send
from receiver.bootstrap.factories import alert_channels
from receiver.cli import output
from receiver.cli.common import AsJson, fail, load_config


def alert(
    *,
    test: Annotated[bool, typer.Option("--test", help="Send a message to each channel.")] = False,
    as_json: AsJson = False,
) -> None:
    """Try the channels of RECEIVER_ALERT_URLS, and say of each whether it worked.

    Channels are named by their services alone, since their URLs hold tokens. Exit 1 if one did not work.
    """
    if not test:
        raise typer.BadParameter("say --test, since it sends a message to each channel")
    config, _ = load_config()
    channels = alert_channels(config)
    if not channels:
        fail("RECEIVER_ALERT_URLS is not set, so there is no channel to try")
    body = f"This is a test. Alerts of upscale-receiver will come here.\n{config.public_url or ''}".strip()
    messages = [Message(name, url, "A test of upscale-receiver", body) for name, url in channels.items()]
    results = asyncio.run(send(messages))
    if as_json:
        rows = [{"channel": name, "sent": results[name] is None, "error": results[name]} for name in channels]
        output.print_json({"channels": rows})
    else:
        for name in channels:
            output.print_line((name, results[name] or "sent"))
    if any(results.values()):
        raise typer.Exit(1)
