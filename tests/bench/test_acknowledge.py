"""The benchmark that is run by hand still works."""

import re

import pytest

from tests.bench.acknowledge import main


def test_all_servers_take_their_turns_and_the_ratios_follow(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--requests", "1000", "--rounds", "1"])
    *rounds, to_bare, of_signed, to_durable = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in rounds] == ["bare", "durable", "signed", "archiving"]
    assert re.fullmatch(r"durable / bare: [\d.]+ of the throughput, [\d.]+ times the p99, [\d.]+ .*", to_bare)
    assert re.fullmatch(r"signed / durable: [\d.]+ of the throughput, [\d.]+ times the CPU", of_signed)
    assert re.fullmatch(r"archiving / durable: [\d.]+ of the throughput", to_durable)
