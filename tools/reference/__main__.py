"""``python -m tools.reference``: write the pages; with ``--check``, fail where they differ from the code."""

import logging
import sys

from receiver.telemetry import logs
from tools.reference import FOLDER, outdated, pages


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    logs.configure("text", least=logging.CRITICAL)  # the receiver that is looked at stays silent
    if arguments == ["--check"]:
        for name in (wrong := outdated()):
            print(f"docs/reference/{name} differs from the code; run `python -m tools.reference`.")
        return 1 if wrong else 0
    if arguments:
        print("usage: python -m tools.reference [--check]", file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
