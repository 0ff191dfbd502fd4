"""The benchmark that is run by hand still works; the contenders are not installed for it."""

import re

import pytest

from tests.bench.postgres import main


def test_the_queries_of_a_copied_ledger_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--requests", "0", "--jobs", "1000", "--times", "3"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert re.fullmatch(r"ledger-copy of 1,000 jobs: \d+ s, \d+ s of CPU", lines[0])
    assert {"claim 8 downloads", "GET /jobs/{id}", "GET /stats"} <= {line[:34].strip() for line in lines[2:]}
