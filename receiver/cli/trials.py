"""Commands that send a test: ``alert`` and ``test-delivery``."""
# ruff: noqa: PT028 - commands, and no tests

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from receiver.alerts.channels import Message, send
from receiver.bootstrap.factories import alert_channels
from receiver.cli import output
from receiver.cli.common import AsJson, fail, load_config
from receiver.cli.maintenance import load_checked_config
from receiver.ledger import Ledger
from receiver.operations.delivery_trial import DeliveryTrials, Step
from receiver.providers.base import Setup
from receiver.providers.registry import open_providers

SIGNS = {"ok": "[green]✓[/]", "failed": "[bold red]✗[/]", "running": "…"}


async def alert(
    *,
    test: Annotated[bool, typer.Option("--test", help="Send a message to each channel.")] = False,
    as_json: AsJson = False,
) -> bool:
    """Try the channels of RECEIVER_ALERT_URLS, and say of each whether it worked.

    Channels are named by their services alone, since their URLs hold tokens. Exit 1 if one did not work.
    """
    if not test:
        raise typer.BadParameter("say --test, since it sends a message to each channel")
    config, _ = load_config()
    channels = alert_channels(config)
    if not channels:
        fail("RECEIVER_ALERT_URLS is not set, so there is no channel to try")
    body = f"This is a test. Alerts of upscale-receiver will come here.\n{config.public_address}".strip()
    messages = [Message(name, url, "A test of upscale-receiver", body) for name, url in channels.items()]
    results = await send(messages)
    if as_json:
        rows = [{"channel": name, "sent": results[name] is None, "error": results[name]} for name in channels]
        output.print_json({"channels": rows})
    else:
        for name in channels:
            output.print_line((name, results[name] or "sent"))
    return not any(results.values())


async def test_delivery(
    *,
    provider: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose delivery it is; by default the first that is on."),
    ] = None,
    as_json: AsJson = False,
) -> bool:
    """Send a test delivery the whole way, through RECEIVER_PUBLIC_URL into the archive, and show each step.

    A running serve takes it like a delivery of the provider's. Its job begins with `test-` and is archived
    like any other. Exit 1 if a step failed; it says what to do.
    """
    config, environ = load_checked_config()
    providers = open_providers(Setup(config, environ))
    name = provider or next(iter(providers), "")
    if name not in providers:
        fail(f"{name or 'no provider'} is not on; there are {', '.join(providers) or 'none'}")
    console = Console(highlight=False, soft_wrap=True)

    def show(step: Step) -> None:
        if as_json or step.state == "running":
            return
        if not console.is_terminal:
            output.print_line((step.state, step.name, step.detail, step.remedy), flush=True)
            return
        console.print(f"{SIGNS[step.state]} {step.title}: ", end="")
        console.print(output.safe(step.detail), markup=False)
        if step.remedy:
            console.print(f"  {output.safe(step.remedy)}", markup=False, style="yellow")

    async with await Ledger.open_beside(config.ledger_location, make=False) as ledger:
        trials = DeliveryTrials(
            ledger=ledger,
            providers=providers,
            address=str(config.public_url or "").rstrip("/"),
            confirm=config.confirm,
        )
        trial = await trials.run(await trials.begin(name), show)
    if as_json:
        steps = [asdict(step) for step in trial.steps]
        output.print_json({"job": trial.job, "worked": trial.worked, "steps": steps})
    return trial.worked
