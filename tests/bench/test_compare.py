"""The benchmark that is run by hand still works."""

import pytest

from tests.bench.compare import HEAD, main


def test_all_contenders_archive_the_same_images_and_stand_in_the_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--quick", "--schemes", "https"])
    *head, row = capsys.readouterr().out.splitlines()
    assert "\n".join(head) == HEAD
    name, scheme, *figures = row.strip("| ").split(" | ")
    assert (name, scheme, len(figures)) == ("3 of small photographs", "https", 7)
    assert all(float(figure) > 0 for figure in figures)
