"""The command line of the sandbox: one function, registered by whoever has a Typer application."""

import json
import logging
import re
from typing import Annotated, Any

import typer

from receiver.cli.options import choice, decimal, whole
from receiver.sandbox.faults import Faults
from receiver.sandbox.options import ErrorShape, Options
from receiver.sandbox.server import run, say

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str | float) -> float:
    """A time such as ``1.5``, ``30s``, ``10m`` or ``24h``, in seconds.

    Raises:
        typer.BadParameter: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", str(text).strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no time such as 1.5, 30s, 10m or 24h")
    return float(match[1]) * _UNITS[match[2] or ""]


def _time(help: str, default: str, panel: str | None = None) -> Any:  # noqa: A002 - Typer's own name for it
    return typer.Option(
        parser=seconds, metavar="TIME", help=help, show_default=default, rich_help_panel=panel
    )


def _share(group: str, help: str) -> Any:  # noqa: A002 - Typer's own name for it
    return decimal(help, 0, 1, metavar="SHARE", panel=group)


_JOBS = "Shares of jobs that end otherwise (0 to 1)"
_RESULTS = "Shares of results that give otherwise (0 to 1)"
_COMPLETIONS = "Shares of completions that travel otherwise (0 to 1)"
_CALLS = "Shares of API calls that answer otherwise (0 to 1)"


def sandbox(
    *,
    host: Annotated[str, typer.Option(help="The loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, whole("The port; 0 for any free one.", 0, 65535)] = 8090,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="XIMILAR_API_TOKEN", show_envvar=True, help="The only token that it accepts; else any."
        ),
    ] = None,
    delay: Annotated[float, _time("The time from submit to DONE.", "1.5s")] = 1.5,
    url_lifetime: Annotated[float, _time("How long a result's URL works.", "24h")] = 24 * 3600.0,
    renew_urls: Annotated[bool, typer.Option(help="Asking for a job renews its dead URL.")] = False,
    page_size: Annotated[int, whole("Rows on a page of the list.", 1)] = 20,
    oldest_first: Annotated[bool, typer.Option(help="The list's order; else newest first.")] = False,
    link_base: Annotated[
        str | None, typer.Option(metavar="URL", help="Scheme and host that the list's links name.")
    ] = None,
    error_shape: Annotated[
        ErrorShape, choice("--error-shape", list(ErrorShape), "The form of all error bodies.")
    ] = ErrorShape.GUESSED,
    seed: Annotated[int | None, whole("What goes wrong repeats with the same number.", 0)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Announce the address as JSON.")] = False,
    record: Annotated[float, _share(_JOBS, "DONE, but the one record carries an error.")] = 0.0,
    failed: Annotated[float, _share(_JOBS, "FAILED, without a completion.")] = 0.0,
    failed_told: Annotated[float, _share(_JOBS, "FAILED, with a completion.")] = 0.0,
    limit: Annotated[float, _share(_JOBS, "API_LIMIT_EXCEEDED, without a completion.")] = 0.0,
    unsupported: Annotated[float, _share(_JOBS, "NOT_SUPPORTED, without a completion.")] = 0.0,
    retry: Annotated[float, _share(_JOBS, "RETRY on the way to DONE.")] = 0.0,
    stuck: Annotated[float, _share(_JOBS, "PROCESSING for ever.")] = 0.0,
    cut: Annotated[float, _share(_RESULTS, "Half the body that Content-Length promises.")] = 0.0,
    corrupt: Annotated[float, _share(_RESULTS, "Wrong bytes, right length.")] = 0.0,
    wrong_size: Annotated[float, _share(_RESULTS, "Not the promised width and height.")] = 0.0,
    html: Annotated[float, _share(_RESULTS, "200 with an HTML page.")] = 0.0,
    empty: Annotated[float, _share(_RESULTS, "200 with no body.")] = 0.0,
    slow: Annotated[float, _share(_RESULTS, "Drips at --slow-rate.")] = 0.0,
    slow_rate: Annotated[int, whole("Bytes a second, with --slow.", 1, panel=_RESULTS)] = 512,
    flaky: Annotated[float, _share(_RESULTS, "503 for --flaky-times, then the image.")] = 0.0,
    flaky_times: Annotated[int, whole("How often, with --flaky.", 0, panel=_RESULTS)] = 2,
    broken: Annotated[float, _share(_RESULTS, "500, always.")] = 0.0,
    gone: Annotated[float, _share(_RESULTS, "403 from the start.")] = 0.0,
    missing: Annotated[float, _share(_RESULTS, "404, always.")] = 0.0,
    stale: Annotated[float, _share(_RESULTS, "403 at the completion's URL; the API names a good one.")] = 0.0,
    drop: Annotated[float, _share(_COMPLETIONS, "Never sent.")] = 0.0,
    twice: Annotated[float, _share(_COMPLETIONS, "Sent twice.")] = 0.0,
    late: Annotated[float, _share(_COMPLETIONS, "Sent later than the job is DONE, by --late-by.")] = 0.0,
    late_by: Annotated[float, _time("How late, with --late.", "30s", _COMPLETIONS)] = 30.0,
    reorder: Annotated[float, _share(_COMPLETIONS, "Sent after another job's.")] = 0.0,
    early: Annotated[float, _share(_CALLS, "A submit's answer comes after its completion.")] = 0.0,
    lost_answer: Annotated[float, _share(_CALLS, "A submit works, and is answered with 502.")] = 0.0,
    cut_answer: Annotated[float, _share(_CALLS, "A submit works, and its answer breaks off.")] = 0.0,
    refuse: Annotated[float, _share(_CALLS, "401 for a good token.")] = 0.0,
    throttle: Annotated[float, _share(_CALLS, "Too many requests (429).")] = 0.0,
    retry_after: Annotated[int | None, whole("Seconds that a 429 names.", 0, panel=_CALLS)] = None,
    outage: Annotated[float, _share(_CALLS, "Bad gateway (502).")] = 0.0,
) -> None:
    """Stand in for Ximilar's upscaling API on this machine. Pictures are resized, not upscaled by AI.

    It fetches from and calls back to loopback only.
    """
    try:
        options = Options(
            token=token,
            delay=delay,
            url_lifetime=url_lifetime,
            renew_urls=renew_urls,
            page_size=page_size,
            oldest_first=oldest_first,
            link_base=link_base,
            error_shape=error_shape,
            seed=seed,
            late_by=late_by,
            flaky_times=flaky_times,
            slow_rate=slow_rate,
            retry_after=retry_after,
            faults=Faults(
                record=record,
                failed=failed,
                failed_told=failed_told,
                limit=limit,
                unsupported=unsupported,
                retry=retry,
                stuck=stuck,
                cut=cut,
                corrupt=corrupt,
                wrong_size=wrong_size,
                html=html,
                empty=empty,
                slow=slow,
                flaky=flaky,
                broken=broken,
                gone=gone,
                missing=missing,
                stale=stale,
                drop=drop,
                twice=twice,
                late=late,
                reorder=reorder,
                early=early,
                lost_answer=lost_answer,
                cut_answer=cut_answer,
                refuse=refuse,
                throttle=throttle,
                outage=outage,
            ),
        )
        # What it does goes to stderr, so that stdout holds the address alone.
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        run(options, host, port, announce=_announce_json if as_json else say)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except OSError as error:
        typer.echo(f"cannot listen: {error.strerror}", err=True)
        raise typer.Exit(1) from error


def _announce_json(url: str) -> None:
    typer.echo(json.dumps({"url": url}))
