"""Every command in the documents can be typed as it stands there."""

import re
import shlex
from collections.abc import Iterator

import pytest
import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from receiver.cli.commands import commands
from tests.docs.documents import DOCUMENTS, ROOT, blocks, located_blocks

FOREIGN = {
    "env",
    ".",
    "cp",
    "curl",
    "docker",
    "echo",
    "python3",
    "RECEIVER_ENV_FILE=local.env",
    "sudo",
    "systemd-analyze",
    "tofu",
    "umask",
}
"""Programs of others that the documents call."""


def receiver_group() -> TyperGroup:
    group = typer.main.get_command(commands())
    assert isinstance(group, TyperGroup)
    return group


GROUP = receiver_group()
COMMANDS = {name: command for name, command in GROUP.commands.items() if isinstance(command, TyperCommand)}


def lines() -> Iterator[tuple[str, str]]:
    for name, block in located_blocks("sh", DOCUMENTS):
        for line in block.replace("\\\n", " ").splitlines():
            yield from ((name, part.strip(" ()")) for part in re.split("&&|;", line.partition("  #")[0]))


@pytest.mark.parametrize(("document", "line"), sorted(set(lines())))
def test_a_command_line_of_the_documents_can_be_run(document: str, line: str) -> None:
    words = shlex.split(line)
    program = words[0]
    if program == "receiver" and words[1].startswith("--"):
        assert_takes(GROUP, words[1:])
    elif program == "receiver":
        assert_takes(COMMANDS[words[1]], words[2:])
    elif program == "./demo":
        assert_takes(COMMANDS["demo"], words[1:])
    elif "/" in program and not program.startswith(".venv/"):
        assert (ROOT / program).is_file(), f"{program} does not exist"
        assert (ROOT / program).stat().st_mode & 0o111, f"{program} cannot be run"
    elif program == "cat":
        assert (ROOT / document).parent.joinpath(words[1]).is_file()
    else:
        assert program in FOREIGN or program.startswith(".venv/"), f"what is {program}?"


def test_a_command_line_with_an_unknown_option_would_be_noticed() -> None:
    with pytest.raises(AssertionError):
        assert_takes(COMMANDS["demo"], ["--no-such-option"])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_run_as_a_process(name: str) -> None:
    """By a line of the documents, which tests/e2e/test_documents.py runs, or by a test of its own."""
    by_document = any(
        re.search(rf"\breceiver {re.escape(name)}\b", line)
        for block in blocks("sh")
        for line in block.splitlines()
    )
    started = rf'\b(?:command|run|both)\(\s*[\[(]?\s*"{re.escape(name)}"'
    own = (
        "tests/e2e/*.py",
        "tests/operations/*.py",
        "tests/sandbox/test_sandbox_command.py",
        "tests/support/processes.py",
    )
    sources = [path for pattern in own for path in ROOT.glob(pattern)]
    assert by_document or any(re.search(started, path.read_text()) for path in sources)


def test_every_command_that_the_documents_name_exists() -> None:
    for text in DOCUMENTS.values():
        for name in re.findall(r"`receiver ([a-z][a-z-]*)", text):
            assert name in COMMANDS, name


def options_of(command: TyperCommand | TyperGroup) -> set[str]:
    return {
        name
        for parameter in command.params
        if isinstance(parameter, TyperOption)
        for name in parameter.opts
        if name.startswith("--")
    } - {"--help"}


def assert_takes(command: TyperCommand | TyperGroup, words: list[str]) -> None:
    """That a command's own parser takes these words; nothing is run, and no file has to be there."""
    words = words[: words.index(">")] if ">" in words else words
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options_of(command)
    if isinstance(command, TyperCommand):  # a group's own options would be obeyed
        command.make_context(command.name, list(words))
