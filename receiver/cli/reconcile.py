"""``receiver reconcile``."""

import contextlib
from dataclasses import asdict, replace
from typing import Annotated

import typer

from receiver.bootstrap.factories import make_data_dir, open_reconcilers
from receiver.cli import output
from receiver.cli.common import AsJson, load_config, print_message, progress_bar
from receiver.cli.options import decimal
from receiver.core.clock import milliseconds
from receiver.core.errors import ConfigError
from receiver.ledger import Ledger
from receiver.providers.base import Setup
from receiver.providers.registry import ENTRIES, open_providers
from receiver.reconcile.reconciler import Summary

ALL = 1_000_000
"""The limit of jobs and pages in one round: practically none."""


async def reconcile(
    *,
    adopt: Annotated[
        bool | None,
        typer.Option(help="Take in completed jobs that nobody announced; else as RECEIVER_ADOPT says."),
    ] = None,
    rate: Annotated[
        float | None,
        decimal("Questions a second; else RECEIVER_RECONCILE_RATE.", 0.001, 1000),
    ] = None,
    as_json: AsJson = False,
) -> bool:
    """Ask the provider about every job without a completion, overdue or not.

    What is found is fetched by a running serve, or by the next one.
    """
    config, environ = load_config()
    providers = open_providers(Setup(config, environ))
    if not any(provider.has_token for provider in providers.values()):
        tokens = " or ".join(entry.token for entry in ENTRIES if not providers or entry.name in providers)
        raise ConfigError(f"{tokens}: is needed to ask the provider with")
    chosen = {
        name: value for name, value in (("adopt", adopt), ("reconcile_rate", rate)) if value is not None
    }
    config = config.model_copy(update=chosen)
    if config.adopt:
        make_data_dir(config)
    summary = Summary()
    async with contextlib.AsyncExitStack() as stack:
        # Without a ledger, as with a wrong data directory, a round would find nothing and report success.
        opening = Ledger.open_beside(config.ledger_location, make=config.adopt)
        ledger = await stack.enter_async_context(await opening)
        for reconciler in await open_reconcilers(config, providers, ledger, stack):
            with progress_bar("asked", quiet=as_json) as on_progress:
                now = ledger.now()
                # Includes jobs that were asked about a moment ago, and are due again within this time.
                later = now + milliseconds(reconciler.asked.provider.url_lifetime)
                summary += await reconciler.round(
                    submitted_before=now + 1, ask_by=later, limit=ALL, pages=ALL, on_progress=on_progress
                )
    error = summary.error
    if as_json:
        reason = error and {"reason": error.reason, "detail": error.detail}
        output.print_json({**asdict(replace(summary, error=None)), "error": reason})
        return error is None
    output.print_counts(
        [
            (summary.asked, "asked about"),
            (summary.found, f"found that were never delivered, {summary.failed} of them failures"),
            (summary.adopted, "adopted that nobody had announced"),
            (summary.running, "still running"),
            (summary.unanswered, "without an answer"),
            (summary.settled, "submits settled whose answer was lost"),
        ]
    )
    if error is not None:
        print_message(f"cut short with {summary.left} left: {error}; run it again later")
    return error is None
