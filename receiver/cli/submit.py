"""``receiver submit``: images to the provider, and what becomes of them."""

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

from receiver import submission
from receiver.cli import output
from receiver.cli.common import AsJson, load_config, print_message, progress_bar, run_until_signal
from receiver.cli.options import choice, whole
from receiver.core import serializers
from receiver.core.errors import InvalidRequestError, ProviderError
from receiver.core.jobs import FINAL, Job, State
from receiver.core.references import is_ref
from receiver.providers.ximilar.request import ImageFormat, Mode, ModelType
from receiver.submission import Fate, Item, Options, Outcome, Submitter

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:/\s*(s|m|h))?")
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600}

MOST_REASONS = 10
"""Errors that are told in full; the rest stand in the table."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was asked for, beside the images and their options."""

    items: Sequence[Item]
    options: Options
    rate: float | None
    wait: bool
    as_json: bool
    list_name: str | None
    go_on: str | None
    """The command that goes on with the list; ``None`` where there is no list."""


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
    options = Options(int(scale), model, mode, format, quality, False if no_tune_colors else None)  # type: ignore[arg-type] # judged above
    if quality is not None and format is None:
        raise typer.BadParameter("--quality needs --format")
    if ref is not None and not is_ref(ref):
        raise typer.BadParameter("--ref is 1 to 200 printable ASCII characters")
    if not images and from_file is None:
        raise typer.BadParameter("name an image, or a list with --from")
    name = None
    if from_file is not None:
        name = list_name or submission.name_of(from_file)
        if again:
            name = submission.named_again(name, datetime.now(UTC))
    try:
        items = submission.prepare(images or [], options, ref=ref, from_file=from_file, list_name=name)
    except InvalidRequestError as error:
        print_message(error.detail)
        raise typer.Exit(1) from None
    asked = _Asked(
        items=items,
        options=options,
        rate=_rate(rate),
        wait=wait,
        as_json=as_json,
        list_name=name,
        go_on=None if name is None else _go_on(name if again else None),
    )
    if again and asked.go_on is not None:
        print_message(f"should this be interrupted, {asked.go_on} goes on")
    run_until_signal(
        partial(_submit, asked),
        "what was under way is open in the ledger, and is looked for before it is sent again",
    )


async def _submit(asked: _Asked, stopping: asyncio.Event) -> bool:
    """Does it, and gives whether all of it was done."""
    config, _ = load_config()
    async with submission.submitting(
        config,
        asked.options,
        list_name=asked.list_name,
        rate=asked.rate,
        stopping=stopping,
        on_wait=_each_once(),
    ) as submitter:
        show = _line if not asked.as_json and not Console().is_terminal else _nothing
        taken = 0
        with progress_bar("submitted", quiet=len(asked.items) < 2) as counted:

            def told(outcome: Outcome) -> None:
                nonlocal taken
                taken += 1
                counted(taken, len(asked.items))
                if not asked.wait:
                    show(outcome)

            outcomes = await submission.submit_all(submitter, asked.items, told)
        if asked.wait:
            outcomes = await _follow(submitter, outcomes, show)
    _end(asked, outcomes)
    return all(map(_archived if asked.wait else _done, outcomes))


async def _follow(
    submitter: Submitter, outcomes: Sequence[Outcome], show: Callable[[Outcome], None]
) -> list[Outcome]:
    """Waits for the ends of the jobs, and shows each as it comes, and at last those that have none."""
    of_job = {outcome.id: outcome for outcome in outcomes if outcome.id is not None}
    shown = set()
    ended = 0

    with progress_bar("ended", quiet=not of_job) as counted:
        counted(0, len(of_job))

        def told(jobs: Sequence[Job]) -> None:
            nonlocal ended
            for job in jobs:
                if job.state in FINAL:
                    ended += 1
                    counted(ended, len(of_job))
                    show(replace(of_job[job.id], job=job))
                    shown.add(job.id)

        found = await submission.follow(submitter.ledger, outcomes, told, until=submitter.stopping)
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


def _go_on(name: str | None) -> str:
    if name is None:
        return "the same command"
    return f"the same command with --list-name {shlex.quote(name)} instead of --again"


def _each_once() -> Callable[[ProviderError], None]:
    """Tells what is being waited out, once for each reason."""
    told: set[str] = set()

    def notice(error: ProviderError) -> None:
        if error.reason not in told:
            told.add(error.reason)
            print_message(f"waiting: {error.detail}")

    return notice


def _nothing(_: Outcome) -> None:
    """Shows nothing yet: a table or JSON follows."""


def _line(outcome: Outcome) -> None:
    print("\t".join(output.safe(cell) for cell in _row(outcome)), flush=True)  # noqa: T201 - a command's output


def _row(outcome: Outcome) -> Sequence[str]:
    """Id, ref, state, image, and why."""
    return outcome.id or "", outcome.ref or "", _state(outcome), outcome.image, _why(outcome)


def _state(outcome: Outcome) -> str:
    """The job's state; where there is no job, what became of the image."""
    if outcome.job is not None:
        return outcome.job.state.value
    return State.SUBMITTED.value if outcome.id is not None else outcome.fate.value


def _why(outcome: Outcome) -> str:
    if outcome.error is not None:
        return outcome.error.reason
    if outcome.job is not None and outcome.job.problem is not None:
        return outcome.job.problem.reason
    return "already submitted" if outcome.fate is Fate.KNOWN else ""


def _end(asked: _Asked, outcomes: Sequence[Outcome]) -> None:
    if asked.as_json:
        output.print_json({"jobs": [_document(outcome) for outcome in outcomes]})
    else:
        _table(outcomes)
    reasons = dict.fromkeys(f"{o.image}: {o.error.detail}" for o in outcomes if o.error is not None)
    for reason in list(reasons)[:MOST_REASONS]:
        print_message(reason)
    fates = Counter(outcome.fate for outcome in outcomes)
    if fates[Fate.OPEN] or fates[Fate.UNSENT]:
        print_message(_left(asked, fates))


def _left(asked: _Asked, fates: Counter[Fate]) -> str:
    """One line on what is not done, and how to go on."""
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
    return "; ".join([*parts, f"{asked.go_on} goes on from here"] if asked.go_on else parts)


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
