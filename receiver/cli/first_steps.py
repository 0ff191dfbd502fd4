"""The questions of ``receiver init`` on a terminal. Each answer is checked as it is given."""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer
from rich.console import Console

from receiver.bootstrap.factories import wrong_settings
from receiver.bootstrap.secrets import dotenv_line, fresh_settings, own_settings, weak_secrets
from receiver.cli.common import exit_now, export_library_variables, fail, is_wanted
from receiver.cli.doctor import show
from receiver.config import Config, environment, load_partly, named
from receiver.core.paths import webhook_path
from receiver.doctor import Level, diagnose, look_at
from receiver.providers.registry import ENTRIES, Entry

AWS = {
    "AWS_ENDPOINT_URL_S3": "the store's address; empty: Amazon S3",
    "AWS_REGION": "the bucket's region",
    "AWS_ACCESS_KEY_ID": "empty: the SDK finds credentials elsewhere, such as a role of this machine",
    "AWS_SECRET_ACCESS_KEY": "empty: as above",
}


def run(own: Mapping[str, str], dotenv: Path, providers: Sequence[str] | None) -> None:
    """Ask, write the file, and show what the doctor says of it.

    ``own`` is the environment. Nothing is written before the last answer.
    """
    former = _former(dotenv)
    if dotenv.exists() and not is_wanted(f"Replace {dotenv}, and keep it as {former}? [y/N] "):
        fail("nothing was written")
    form = _Form(own)
    try:
        entries = form.choose(providers)
        for entry in entries:
            form.ask_provider(entry)
        form.ask_archive()
        form.ask(
            "RECEIVER_PUBLIC_URL",
            "the https address at which the provider reaches this receiver; empty: later",
        )
        form.ask(
            "RECEIVER_API_TOKENS", "the password of the page and of programs; empty: a fresh one", hidden=True
        )
    except EOFError:
        fail("nothing was written")
    values = {**own_settings(), **form.given}
    _write(dotenv, "".join(f"{dotenv_line(name, value)}\n" for name, value in values.items()))
    typer.echo(f"{dotenv} is written, and its owner's alone.\n")
    environ = environment(own, dotenv)
    export_library_variables(environ)
    show(asyncio.run(diagnose(own, dotenv)).results)
    config, _ = load_partly(environ)
    for entry in entries:
        typer.echo(f"\n{entry.title} delivers where a request has this:\n  {_request(entry, config)}")
    typer.echo("\nNext: receiver serve")
    exit_now(0)


class _Form:
    """The settings that were given so far; ``own`` is the environment."""

    def __init__(self, own: Mapping[str, str]) -> None:
        self._own = own
        self._values: dict[str, str] = {}
        self._console = Console(stderr=True, highlight=False)

    @property
    def given(self) -> dict[str, str]:
        return {name: value for name, value in self._values.items() if value}

    def choose(self, names: Sequence[str] | None) -> list[Entry]:
        """Return the providers with these names, or ask for them."""
        known = {entry.name: entry for entry in ENTRIES}
        while not names:
            first, *others = known
            answer = self._input(
                f"Whose deliveries are taken? {first} (empty), {', '.join(others)}; several: with commas: "
            )
            names = [name.strip().lower() for name in (answer or first).split(",") if name.strip()]
            if strangers := [name for name in names if name not in known]:
                self._console.print(f"There is no provider {strangers[0]}.", markup=False)
                names = None
        return [known[name] for name in dict.fromkeys(names)]

    def ask_provider(self, entry: Entry) -> None:
        self._values |= fresh_settings(entry)
        for name in dict.fromkeys([*entry.settings, entry.token]):
            if not self._values.get(name):
                self.ask(name, f"{entry.title} gives it to you; empty: later", hidden=True)

    def ask_archive(self) -> None:
        name = "RECEIVER_ARCHIVE"
        while True:
            self.ask(name, "file:///folder or s3://bucket/prefix; empty: in the data directory", looks=False)
            if self._values[name].startswith("s3:"):
                for variable, text in AWS.items():
                    if not self._own.get(variable):
                        self.ask(variable, text, hidden=variable == "AWS_SECRET_ACCESS_KEY")
            if self._is_good(name):
                return

    def ask(self, name: str, text: str, *, hidden: bool = False, looks: bool = True) -> None:
        """Ask for a setting until its answer can be one; with ``looks``, check what it leads to."""
        while True:
            self._values[name] = self._input(f"{name} ({text}): ", hidden=hidden)
            if (fault := self._fault(name)) is not None:
                self._console.print(fault, markup=False)
            elif not looks or not self._values[name] or self._is_good(name):
                return

    def _input(self, question: str, *, hidden: bool = False) -> str:
        return self._console.input(question, markup=False, password=hidden).strip()

    def _fault(self, name: str) -> str | None:
        """Return why no receiver starts with a setting."""
        config, wrong = load_partly(self._environ)
        weak = (f"{setting}: {what}" for setting, as_none, what in weak_secrets(config) if as_none)
        lines = [*wrong, *wrong_settings(config, self._environ), *weak]
        return next((fault for fault in lines if name in named([fault])), None)

    def _is_good(self, name: str) -> bool:
        """Show what the doctor says of a setting; return whether it is good, or is to stay all the same."""
        results = asyncio.run(look_at(name, self._environ))
        show(results)
        failed = any(result.level is Level.FAILURE for result in results)
        return not failed or is_wanted("Keep it all the same? [y/N] ")

    @property
    def _environ(self) -> dict[str, str]:
        return {**self._own, **self.given}


def _write(path: Path, text: str) -> None:
    """Write a file for its owner alone, whole or not at all, and keep those that were there."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        path.replace(_former(path))
    new.replace(path)


def _former(path: Path) -> Path:
    """Return where a file that is replaced is kept, beside those that were before it."""
    number = 1
    while (kept := path.with_name(f"{path.name}.old{number if number > 1 else ''}")).exists():
        number += 1
    return kept


def _request(entry: Entry, config: Config) -> str:
    """Return what names the webhook in a request to a provider."""
    base = str(config.public_url or "https://receiver.example.com").rstrip("/")
    headers = {name: values[0].get_secret_value() for name, values in config.webhook_headers.items()}
    request = entry.request.replace("{url}", base + webhook_path(entry.name))
    return request.replace("{headers}", json.dumps(headers))
