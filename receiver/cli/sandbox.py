"""``receiver sandbox``."""

import inspect
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from receiver.cli.options import choice, decimal, whole
from receiver.sandbox import faults
from receiver.sandbox.options import SECRET_VARIABLES, TOKEN_VARIABLES, ErrorShape, Options, ProviderName
from receiver.sandbox.server import print_address, run

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str | float) -> float:
    """Return a time such as ``1.5``, ``30s`` or ``24h`` in seconds. Raise `typer.BadParameter` for others."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", str(text).strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no time such as 1.5, 30s, 10m or 24h")
    return float(match[1]) * _UNITS[match[2] or ""]


def _time(help: str, default: str, panel: str | None = None) -> Any:  # noqa: A002 - Typer's own name for it
    return typer.Option(
        parser=seconds, metavar="TIME", help=help, show_default=default, rich_help_panel=panel
    )


_CALLS = "Shares of API calls that answer otherwise (0 to 1)"
_RESULTS = "Shares of results that give otherwise (0 to 1)"
_COMPLETIONS = "Shares of completions that travel otherwise (0 to 1)"
_PANELS: Mapping[type[faults.Fault], str] = {
    faults.JobFault: "Shares of jobs that end otherwise (0 to 1)",
    faults.OutputFault: "Shares of jobs that make something else (0 to 1)",
    faults.ResultFault: _RESULTS,
    faults.CompletionFault: _COMPLETIONS,
    faults.ProofFault: "Shares of jobs whose deliveries are signed otherwise (0 to 1)",
    faults.SubmitFault: _CALLS,
    faults.CallFault: _CALLS,
}


def _with_shares(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for the share of each fault, in the place of its ``**shares``."""
    signature = inspect.signature(command)
    *own, _ = signature.parameters.values()
    shares = []
    for name, fault in faults.FAULTS.items():
        option = decimal(fault.text, 0, 1, metavar="SHARE", panel=_PANELS[type(fault)])
        shares.append(own[0].replace(name=name, default=0.0, annotation=Annotated[float, option]))
    command.__signature__ = signature.replace(parameters=[*shares, *own])  # type: ignore[attr-defined] # Typer reads it
    return command


def options_of(values: Mapping[str, Any]) -> Options:
    """Return the sandbox's options from the command's parameters, which have the same names.

    Raise `ValueError` if they do not fit together.
    """
    given = {field.name: values[field.name] for field in fields(Options) if field.name in values}
    shares = {name: values[name] for name in faults.FAULTS}
    return Options(**given, faults=faults.Faults(**shares))


@_with_shares
def sandbox(
    *,
    provider: Annotated[
        ProviderName, choice("--provider", list(ProviderName), "The provider to stand in for.")
    ] = ProviderName.XIMILAR,
    host: Annotated[str, typer.Option(help="The loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, whole("The port; 0 for any free one.", 0, 65535)] = 8090,
    token: Annotated[
        str | None,
        typer.Option(
            help=f"The only token that it accepts; else any. Also from {', '.join(TOKEN_VARIABLES.values())}."
        ),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECRET",
            help="The secret that signs; several: all sign; else it makes one. "
            f"Also from {', '.join(SECRET_VARIABLES.values())}.",
        ),
    ] = None,
    two_keys: Annotated[bool, typer.Option(help="Sign as while one key is changed for another.")] = False,
    keys_late: Annotated[float, _time("fal.ai: how long its key set is away at first.", "0s")] = 0.0,
    delay: Annotated[float, _time("The time from submit to the job's end.", "1.5s")] = 1.5,
    url_lifetime: Annotated[float | None, _time("How long a result's URL works.", "the provider's")] = None,
    renew_urls: Annotated[bool, typer.Option(help="Asking for a job renews its dead URL.")] = False,
    files_want_token: Annotated[
        bool, typer.Option(help="Replicate: give files to holders of the token alone.")
    ] = False,
    retry_within: Annotated[
        float | None, _time("How long a delivery is tried again.", "the provider's")
    ] = None,
    page_size: Annotated[int | None, whole("Rows on a page of the list; else as the provider.", 1)] = None,
    oldest_first: Annotated[bool, typer.Option(help="The list's order; else newest first.")] = False,
    link_base: Annotated[
        str | None, typer.Option(metavar="URL", help="Scheme and host that the list's links name.")
    ] = None,
    error_shape: Annotated[
        ErrorShape, choice("--error-shape", list(ErrorShape), "The form of all error bodies.")
    ] = ErrorShape.GUESSED,
    ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Authorities to trust over TLS, in PEM; else the machine's."),
    ] = None,
    seed: Annotated[int | None, whole("What goes wrong repeats with the same number.", 0)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Announce the address as JSON.")] = False,
    slow_rate: Annotated[int, whole("Bytes a second, with --slow.", 1, panel=_RESULTS)] = 512,
    flaky_times: Annotated[int, whole("How often, with --flaky.", 0, panel=_RESULTS)] = 2,
    late_by: Annotated[float, _time("How late, with --late.", "30s", _COMPLETIONS)] = 30.0,
    retry_after: Annotated[int | None, whole("Seconds that a 429 names.", 0, panel=_CALLS)] = None,
    **shares: float,
) -> None:
    """Stand in for a provider's upscaling API on this machine. Pictures are resized, not upscaled by AI.

    It fetches from and calls back to loopback only.
    """
    token = token or os.environ.get(TOKEN_VARIABLES[provider])
    secret = secret or os.environ.get(SECRET_VARIABLES.get(provider, ""), "").split(",")
    given = {**locals(), **shares, "secrets": tuple(text.strip() for text in secret if text.strip())}
    try:
        options = options_of(given)
        # To stderr, so that stdout holds the address alone.
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        run(options, host, port, on_ready=_print_json if as_json else print_address)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except OSError as error:
        typer.echo(f"cannot listen: {error.strerror}", err=True)
        raise typer.Exit(1) from error


def _print_json(url: str, secrets: Sequence[str]) -> None:
    typer.echo(json.dumps({"url": url, "secrets": secrets}))
