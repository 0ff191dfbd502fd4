"""``receiver alert``."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from receiver.alerts.alerter import read_alerts
from receiver.alerts.channels import Message, send
from receiver.bootstrap.factories import alert_channels
from receiver.cli import output
from receiver.cli.common import AsJson, fail, load_config
from receiver.core import serializers
from receiver.ledger import LedgerReader


def alert(
    *,
    test: Annotated[
        bool, typer.Option("--test", help="Send a message to each channel, and say whether it worked.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the alerts that are active, and which channels were told; with --test try the channels.

    Channels are those of RECEIVER_ALERT_URLS, named by their services alone, since their URLs hold tokens.
    Exit 1 if a channel did not work.
    """
    config, _ = load_config()
    channels = alert_channels(config)
    if test and not channels:
        fail("RECEIVER_ALERT_URLS is not set, so there is no channel to try")
    if test:
        address = str(config.public_url or "")
        body = f"This is a test. Alerts of upscale-receiver will come here.\n{address}".strip()
        messages = [Message(name, url, "A test of upscale-receiver", body) for name, url in channels.items()]
        results = asyncio.run(send(messages))
        rows = [{"channel": name, "sent": results[name] is None, "error": results[name]} for name in channels]
        _show({"channels": rows}, [(name, results[name] or "sent") for name in channels], as_json=as_json)
        if any(results.values()):
            raise typer.Exit(1)
        return

    async def read() -> list[dict[str, object]]:
        async with await LedgerReader.open(config.ledger_location) as ledger:
            alerts = await read_alerts(ledger)
        return [
            {
                "alert": key,
                "since": serializers.time(alert.at),
                "text": alert.text,
                "told": sorted(channel for channel, active in alert.told.items() if active),
            }
            for key, alert in alerts.items()
            if alert.active
        ]

    found = asyncio.run(read())
    _show({"alerts": found}, [tuple(map(_cell, it.values())) for it in found], as_json=as_json)


def _cell(value: object) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _show(document: dict[str, object], rows: list[tuple[str, ...]], *, as_json: bool) -> None:
    if as_json:
        output.print_json(document)
        return
    console = Console()
    names = ("channel", "result") if "channels" in document else ("alert", "since", "text", "told")
    if console.is_terminal and rows:
        console.print(output.table(names, rows))
        return
    for row in rows:
        output.print_line(row)
