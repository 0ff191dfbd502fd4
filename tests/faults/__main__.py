"""``python -m tests.faults``: runs every fault test, and prints the matrix of docs/evidence/faults.md.

The run itself goes to standard error, the table alone to standard output. Arguments are pytest's.
"""

import contextlib
import sys
from pathlib import Path

import pytest


class _Keeper:
    """A plugin that keeps the table."""

    table = ""

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        # Not before: pytest rewrites the assertions of its plugins while it loads them.
        from tests.faults import matrix

        self.table = matrix.table(matrix.reports(terminalreporter))


def main() -> int:
    keeper = _Keeper()
    with contextlib.redirect_stdout(sys.stderr):
        code = pytest.main([str(Path(__file__).parent), *(sys.argv[1:] or ["-n", "2"])], plugins=[keeper])
    sys.stdout.write(f"{keeper.table}\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
