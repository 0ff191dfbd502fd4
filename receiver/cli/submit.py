"""``receiver submit``."""

import asyncio
import itertools
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console

from receiver.cli import output
from receiver.cli.common import AsJson, fail, load_config, print_message, progress_bar, run_until_signal
from receiver.cli.options import choice, whole
from receiver.core import serializers
from receiver.core.completion import is_ref
from receiver.core.errors import InvalidRequestError
from receiver.core.jobs import FINAL, Job, State
from receiver.providers.ximilar.request import ImageFormat, Mode, ModelType, Options
from receiver.submission import run
from receiver.submission.images import Item
from receiver.submission.submitter import Fate, Outcome, Submitter

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:/\s*(s|m|h))?")
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600}

SUBMITS_AGAIN = (
    "repeated, the command would submit, and bill, all its arguments again;"
    " `receiver jobs` shows what was submitted, and --from takes the rest as a list"
)

NOT_DONE: Mapping[Fate, str] = {
    Fate.REFUSED: "refused",
    Fate.OPEN: "open: the provider may have taken them, and they are looked for later",
    Fate.UNSENT: "not begun",
}

UNKEPT = "no small picture is kept of the source of"

MAX_ERRORS = 10
"""Errors printed in full; the table has the reasons of all."""


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
            "--from", metavar="FILE", help="A list: a URL or a file a line; a tab and a reference may follow."
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

    A list continues where it stopped: the same command again submits only lines without a job. Images that
    are arguments are submitted, and billed, by each command that names them.
    """
    options = Options(int(scale), model, mode, format, quality, False if no_tune_colors else None)  # type: ignore[arg-type] # `choice` checks it
    if quality is not None and format is None:
        raise typer.BadParameter("--quality needs --format")
    if ref is not None and not is_ref(ref):
        raise typer.BadParameter("--ref is 1 to 200 printable ASCII characters")
    if not images and from_file is None:
        raise typer.BadParameter("name an image, or a list with --from")
    name, resume = None, []
    if from_file is not None:
        name, command = list_name or run.name_of(from_file), "the same command"
        if again:
            name = run.named_again(name, datetime.now(UTC))
            command = f"{command} with --list-name {shlex.quote(name)} instead of --again"
        resume.append(f"{command} goes on from here")
    if images:
        resume.append(SUBMITS_AGAIN)
    try:
        items = run.prepare(images or [], options, ref=ref, from_file=from_file, list_name=name)
    except InvalidRequestError as error:
        fail(error.detail)
    if again and from_file is not None:
        print_message(f"should this be interrupted, {resume[0]}")
    a_second = _rate(rate)
    print_once = _once_each()

    async def work(stopping: asyncio.Event) -> bool:
        config, environ = load_config()
        async with run.submitting(
            config,
            options,
            list_name=name,
            rate=a_second,
            stopping=stopping,
            on_wait=lambda error: print_once(error.reason, f"waiting: {error.detail}"),
            environ=environ,
            on_source=lambda job_id, why: print_once("source", f"{UNKEPT} {job_id} and its like: {why}"),
        ) as submitter:
            outcomes = await _submit(submitter, items, wait=wait, quiet=as_json)
        _end(outcomes, resume, as_json=as_json, interrupted=wait and stopping.is_set())
        return all(_state(o) == State.ARCHIVED if wait else o.id is not None for o in outcomes)

    run_until_signal(
        work, "; ".join(["what was under way is open in the ledger, and is looked for", *resume])
    )


async def _submit(
    submitter: Submitter, items: Sequence[Item], *, wait: bool, quiet: bool
) -> Sequence[Outcome]:
    """Submit the images, and wait for their jobs if asked to. In a pipe, print a line for each image."""

    def print_one(outcome: Outcome) -> None:
        if not quiet and not Console().is_terminal:  # else a table or JSON follows
            output.print_line(_row(outcome), flush=True)

    numbers = itertools.count(1)
    with progress_bar("submitted", quiet=len(items) < 2) as on_progress:

        def on_outcome(outcome: Outcome) -> None:
            on_progress(next(numbers), len(items))
            if not wait:
                print_one(outcome)

        outcomes = await run.submit_all(submitter, items, on_outcome)
    return await _follow(submitter, outcomes, print_one) if wait else outcomes


async def _follow(
    submitter: Submitter, outcomes: Sequence[Outcome], print_one: Callable[[Outcome], None]
) -> list[Outcome]:
    """Wait for the jobs to end. Print each one that ends, and finally those without a job."""
    of_job = {outcome.id: outcome for outcome in outcomes if outcome.id is not None}
    ended: set[str] = set()

    with progress_bar("ended", quiet=not of_job) as on_progress:
        on_progress(0, len(of_job))

        def on_jobs(jobs: Sequence[Job]) -> None:
            for job in jobs:
                if job.state in FINAL:
                    ended.add(job.id)
                    on_progress(len(ended), len(of_job))
                    print_one(replace(of_job[job.id], job=job))

        found = await run.follow(submitter.ledger, outcomes, on_jobs, until=submitter.stopping)
    for outcome in found:
        if outcome.id not in ended:
            print_one(outcome)
    return found


def _rate(text: str | None) -> float | None:
    if text is None:
        return None
    match = _RATE.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise typer.BadParameter("--rate is a number such as 2/s, 30/m or 100/h")
    return float(match[1]) / _SECONDS[match[2]]


def _once_each() -> Callable[[str, str], None]:
    """Return a function that prints a message, but only the first of each kind."""
    printed: set[str] = set()

    def print_once(kind: str, text: str) -> None:
        if kind not in printed:
            printed.add(kind)
            print_message(text)

    return print_once


def _row(outcome: Outcome) -> Sequence[str]:
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


def _end(outcomes: Sequence[Outcome], resume: Sequence[str], *, as_json: bool, interrupted: bool) -> None:
    console = Console()
    if as_json:
        output.print_json({"jobs": [_document(outcome) for outcome in outcomes]})
    elif console.is_terminal:
        console.print(output.table(("job", "ref", "state", "image", "reason"), map(_row, outcomes)))
    reasons = dict.fromkeys(f"{o.image}: {o.error.detail}" for o in outcomes if o.error is not None)
    for reason in list(reasons)[:MAX_ERRORS]:
        print_message(reason)
    fates = Counter(outcome.fate for outcome in outcomes)
    is_partly = any(fates[fate] for fate in NOT_DONE) and fates[Fate.REFUSED] < fates.total()
    if interrupted or is_partly:
        done = fates[Fate.SUBMITTED] + fates[Fate.KNOWN]
        left = [f"{fates[fate]} {text}" for fate, text in NOT_DONE.items() if fates[fate]]
        print_message("; ".join([f"{done} of {fates.total()} are submitted", *left, *resume]))


def _document(outcome: Outcome) -> dict[str, Any]:
    error = outcome.error and {"reason": outcome.error.reason, "detail": outcome.error.detail}
    if error is None and outcome.job is not None:
        error = serializers.job(outcome.job)["error"]
    return {
        "id": outcome.id,
        "ref": outcome.ref,
        "state": _state(outcome),
        "image": outcome.image,
        "already": outcome.fate is Fate.KNOWN,
        "error": error,
    }
