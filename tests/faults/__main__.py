"""``python -m tests.faults``: runs every fault test, and prints the matrix of docs/evidence/faults.md.

The run itself goes to standard error, the table alone to standard output. ``--ledger postgres`` runs those of
two receivers on one PostgreSQL; other arguments are pytest's.
"""

import argparse
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


FOLDER = Path(__file__).parent
TESTS = {
    None: [FOLDER],
    "sqlite": [
        path for path in FOLDER.glob("test_*.py") if path.stem not in ("test_cluster", "test_instances")
    ],
    "postgres": [FOLDER / "test_cluster.py", FOLDER / "test_instances.py"],
}


def main() -> int:
    keeper = _Keeper()
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--ledger", choices=["sqlite", "postgres"])
    options, rest = parser.parse_known_args()
    tests = [str(path) for path in TESTS[options.ledger] if path.exists()]
    with contextlib.redirect_stdout(sys.stderr):
        code = pytest.main([*tests, *(rest or ["-n", "2"])], plugins=[keeper])
    sys.stdout.write(f"{keeper.table}\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
