"""The challenge that only one installation can answer."""

from pathlib import Path

import pytest

from receiver.web.challenge import KEY_NAME, installation_key, new_challenge, prove, read_key


def test_each_installation_has_a_key_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    assert read_key(one) is None
    key = installation_key(one)
    assert installation_key(one) == key == read_key(one)
    assert installation_key(other) != key
    assert (one / KEY_NAME).stat().st_mode & 0o777 == 0o600


def test_a_key_that_a_crash_left_short_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / KEY_NAME).write_bytes(b"short")
    assert read_key(tmp_path) is None
    assert read_key(tmp_path) != installation_key(tmp_path) == read_key(tmp_path)


def test_a_directory_that_cannot_be_written_costs_nothing_but_the_proof(tmp_path: Path) -> None:
    assert len(installation_key(tmp_path / "gone")) == 32


def test_only_the_same_key_gives_the_same_proof() -> None:
    challenge = new_challenge()
    proof = prove(b"k" * 32, challenge)
    assert proof == prove(b"k" * 32, challenge)
    assert proof != prove(b"K" * 32, challenge)
    assert proof != prove(b"k" * 32, new_challenge())


@pytest.mark.parametrize("text", ["", "short", "x" * 21, "x" * 65, "é" * 30, "x" * 30 + "\n", "x y" * 10])
def test_what_is_no_challenge_has_no_proof(text: str) -> None:
    assert prove(b"k" * 32, text) is None
