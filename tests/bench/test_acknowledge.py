"""The benchmark that is run by hand still works."""

import re

import pytest

from tests.bench.acknowledge import main


def test_all_servers_take_their_turns_and_the_ratios_follow(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--requests", "1000", "--rounds", "1"])
    bare, durable, archiving, to_bare, to_durable = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in (bare, durable, archiving)] == ["bare", "durable", "archiving"]
    assert re.fullmatch(r"durable / bare: [\d.]+ of the throughput, [\d.]+ times the p99, [\d.]+ .*", to_bare)
    assert re.fullmatch(r"archiving / durable: [\d.]+ of the throughput", to_durable)
