"""``receiver test-delivery``."""
# ruff: noqa: PT028 - a command, and no test

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from receiver.cli import output
from receiver.cli.common import AsJson, fail
from receiver.cli.maintenance import load_checked_config
from receiver.ledger import Ledger
from receiver.operations.delivery_trial import DeliveryTrials, Step, Trial
from receiver.providers.registry import open_providers
from receiver.providers.setup import Setup

SIGNS = {"ok": "[green]✓[/]", "failed": "[bold red]✗[/]", "running": "…"}


def test_delivery(
    *,
    provider: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose delivery it is; by default the first that is on."),
    ] = None,
    as_json: AsJson = False,
) -> None:
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

    async def run() -> Trial:
        async with await Ledger.open_beside(config.ledger_location, make=False) as ledger:
            trials = DeliveryTrials(
                ledger=ledger,
                providers=providers,
                address=str(config.public_url or "").rstrip("/"),
                confirm=config.confirm,
                now=ledger.now,
            )
            return await trials.run(await trials.begin(name), show)

    trial = asyncio.run(run())
    if as_json:
        steps = [asdict(step) for step in trial.steps]
        output.print_json({"job": trial.job, "worked": trial.worked, "steps": steps})
    if not trial.worked:
        raise typer.Exit(1)
