"""``receiver submit``."""

import asyncio
import re
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console

from receiver.cli import output
from receiver.cli.common import AsJson, load_config, print_message, progress_bar, run_until_signal
from receiver.cli.options import choice, whole
from receiver.core import serializers
from receiver.core.completion import is_ref
from receiver.core.errors import InvalidRequestError, ProviderError
from receiver.core.jobs import FINAL, Job, State
from receiver.providers.ximilar.request import ImageFormat, Mode, ModelType
from receiver.submission import run
from receiver.submission.images import Item, Options
from receiver.submission.submitter import Fate, Outcome, Submitter

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:/\s*(s|m|h))?")
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600}

MAX_ERRORS = 10
"""Errors printed in full; the table has the reasons of all."""


@dataclass(frozen=True, slots=True)
class _Request:
    """What the command line asks for."""

    items: Sequence[Item]
    options: Options
    rate: float | None
    wait: bool
    as_json: bool
    list_name: str | None
    resume: str | None
    """The command that continues the list; ``None`` without a list."""


def submit(
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE", help="URLs or files.", show_default=False)
    ] = None,
    *,
    scale: Annotated[str, choice("--scale", ("2", "4", "8"), "How many times larger each side.")] = "2",
    model: Annotated[
        ModelType | None, choice("--model", get_args(ModelType), "The model; else the provider's default.")
    ] = None,
    mode: Annotated[
        Mode | None, choice("--mode", get_args(Mode), "The mode; else the provider's default.")
    ] = None,
    format: Annotated[  # noqa: A002 - the option's name
        ImageFormat | None, choice("--format", get_args(ImageFormat), "The results' format.")
    ] = None,
    quality: Annotated[int | None, whole("The results' quality; needs --format.", 1, 100)] = None,
    no_tune_colors: Annotated[
        bool, typer.Option("--no-tune-colors", help="Leave the results' colours as they come.")
    ] = False,
    ref: Annotated[str | None, typer.Option(help="Your own reference, which the jobs keep.")] = None,
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILE", help="A file with one URL a line; a tab and a reference may follow it."
        ),
    ] = None,
    list_name: Annotated[
        str | None, typer.Option(help="The name by which the list is known, instead of its place.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Submit all lines of the list anew.")] = False,
    rate: Annotated[
        str | None, typer.Option(metavar="N/s", help="At most so many submissions a second (or N/m, N/h).")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all jobs have ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit images to the provider, which will call this receiver with each result.

    A list continues where it stopped: the same command again submits only lines without a job.
    """
    options = Options(int(scale), model, mode, format, quality, False if no_tune_colors else None)  # type: ignore[arg-type] # `choice` checks it
    if quality is not None and format is None:
        raise typer.BadParameter("--quality needs --format")
    if ref is not None and not is_ref(ref):
        raise typer.BadParameter("--ref is 1 to 200 printable ASCII characters")
    if not images and from_file is None:
        raise typer.BadParameter("name an image, or a list with --from")
    name = None
    if from_file is not None:
        name = list_name or run.name_of(from_file)
        if again:
            name = run.named_again(name, datetime.now(UTC))
    try:
        items = run.prepare(images or [], options, ref=ref, from_file=from_file, list_name=name)
    except InvalidRequestError as error:
        print_message(error.detail)
        raise typer.Exit(1) from None
    request = _Request(
        items=items,
        options=options,
        rate=_rate(rate),
        wait=wait,
        as_json=as_json,
        list_name=name,
        resume=None if name is None else _resume(name if again else None),
    )
    if again and request.resume is not None:
        print_message(f"should this be interrupted, {request.resume} goes on")
    run_until_signal(
        partial(_submit, request),
        "what was under way is open in the ledger, and is looked for before it is sent again",
    )


async def _submit(request: _Request, stopping: asyncio.Event) -> bool:
    """Submit the images. Return whether all were submitted; with --wait, whether all are archived."""
    config, _ = load_config()
    async with run.submitting(
        config,
        request.options,
        list_name=request.list_name,
        rate=request.rate,
        stopping=stopping,
        on_wait=_print_once(),
    ) as submitter:
        show = _line if not request.as_json and not Console().is_terminal else _nothing
        taken = 0
        with progress_bar("submitted", quiet=len(request.items) < 2) as on_progress:

            def on_outcome(outcome: Outcome) -> None:
                nonlocal taken
                taken += 1
                on_progress(taken, len(request.items))
                if not request.wait:
                    show(outcome)

            outcomes = await run.submit_all(submitter, request.items, on_outcome)
        if request.wait:
            outcomes = await _follow(submitter, outcomes, show)
    _end(request, outcomes)
    return all(map(_archived if request.wait else _done, outcomes))


async def _follow(
    submitter: Submitter, outcomes: Sequence[Outcome], show: Callable[[Outcome], None]
) -> list[Outcome]:
    """Wait for the jobs to end. Show each one that ends, and finally those without a job."""
    of_job = {outcome.id: outcome for outcome in outcomes if outcome.id is not None}
    shown = set()
    ended = 0

    with progress_bar("ended", quiet=not of_job) as on_progress:
        on_progress(0, len(of_job))

        def on_jobs(jobs: Sequence[Job]) -> None:
            nonlocal ended
            for job in jobs:
                if job.state in FINAL:
                    ended += 1
                    on_progress(ended, len(of_job))
                    show(replace(of_job[job.id], job=job))
                    shown.add(job.id)

        found = await run.follow(submitter.ledger, outcomes, on_jobs, until=submitter.stopping)
    for outcome in found:
        if outcome.id not in shown:
            show(outcome)
    return found


def _done(outcome: Outcome) -> bool:
    return outcome.id is not None


def _archived(outcome: Outcome) -> bool:
    return outcome.job is not None and outcome.job.state is State.ARCHIVED


def _rate(text: str | None) -> float | None:
    if text is None:
        return None
    match = _RATE.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise typer.BadParameter("--rate is a number such as 2/s, 30/m or 100/h")
    return float(match[1]) / _SECONDS[match[2]]


def _resume(name: str | None) -> str:
    if name is None:
        return "the same command"
    return f"the same command with --list-name {shlex.quote(name)} instead of --again"


def _print_once() -> Callable[[ProviderError], None]:
    """Return a function that prints why the command waits, once for each reason."""
    printed: set[str] = set()

    def notice(error: ProviderError) -> None:
        if error.reason not in printed:
            printed.add(error.reason)
            print_message(f"waiting: {error.detail}")

    return notice


def _nothing(_: Outcome) -> None:
    """Print nothing: a table or JSON follows."""


def _line(outcome: Outcome) -> None:
    output.print_line(_row(outcome), flush=True)


def _row(outcome: Outcome) -> Sequence[str]:
    """Return id, ref, state, image and reason."""
    return outcome.id or "", outcome.ref or "", _state(outcome), outcome.image, _why(outcome)


def _state(outcome: Outcome) -> str:
    """Return the job's state; without a job, the outcome of the submission."""
    if outcome.job is not None:
        return outcome.job.state.value
    return State.SUBMITTED.value if outcome.id is not None else outcome.fate.value


def _why(outcome: Outcome) -> str:
    if outcome.error is not None:
        return outcome.error.reason
    if outcome.job is not None and outcome.job.problem is not None:
        return outcome.job.problem.reason
    return "already submitted" if outcome.fate is Fate.KNOWN else ""


def _end(request: _Request, outcomes: Sequence[Outcome]) -> None:
    if request.as_json:
        output.print_json({"jobs": [_document(outcome) for outcome in outcomes]})
    else:
        _table(outcomes)
    reasons = dict.fromkeys(f"{o.image}: {o.error.detail}" for o in outcomes if o.error is not None)
    for reason in list(reasons)[:MAX_ERRORS]:
        print_message(reason)
    fates = Counter(outcome.fate for outcome in outcomes)
    if fates[Fate.OPEN] or fates[Fate.UNSENT]:
        print_message(_left(request, fates))


def _left(request: _Request, fates: Counter[Fate]) -> str:
    """Return a line on what is not done, and how to continue."""
    done = fates[Fate.SUBMITTED] + fates[Fate.KNOWN]
    parts = [f"{done} of {fates.total()} are submitted"]
    if fates[Fate.REFUSED]:
        parts.append(f"{fates[Fate.REFUSED]} refused")
    if fates[Fate.OPEN]:
        parts.append(
            f"{fates[Fate.OPEN]} open: the provider may have taken them, and they are looked for later"
        )
    if fates[Fate.UNSENT]:
        parts.append(f"{fates[Fate.UNSENT]} not begun")
    return "; ".join([*parts, f"{request.resume} goes on from here"] if request.resume else parts)


def _document(outcome: Outcome) -> dict[str, Any]:
    error: dict[str, Any] | None = None
    if outcome.error is not None:
        error = {"reason": outcome.error.reason, "detail": outcome.error.detail}
    elif outcome.job is not None and outcome.job.problem is not None:
        problem = outcome.job.problem
        error = {"reason": problem.reason, "detail": problem.detail, "at": serializers.time(problem.at)}
    return {
        "id": outcome.id,
        "ref": outcome.ref,
        "state": _state(outcome),
        "image": outcome.image,
        "already": outcome.fate is Fate.KNOWN,
        "error": error,
    }


def _table(outcomes: Sequence[Outcome]) -> None:
    console = Console()
    if not console.is_terminal:
        return
    names = ("job", "ref", "state", "image", "reason")
    console.print(output.table(names, map(_row, outcomes)))
