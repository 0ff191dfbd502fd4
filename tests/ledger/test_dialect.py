"""SQL with its values, as PostgreSQL reads it."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.core.jobs import State
from receiver.ledger.postgres import dialect
from receiver.ledger.postgres.connection import MOST_PREPARED, Session, Statements
from receiver.ledger.postgres.dialect import Values, in_order, insert_rows, numbered, row_type

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.one_of(
    TEXTS,
    st.text(st.sampled_from("'\\?:%;-$ab\0\n\"")),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(),
    st.booleans(),
    st.none(),
)


@pytest.fixture(params=["prepared", "whole, as through a pool of connections"])
def statements(shared_database: str, request: pytest.FixtureRequest) -> Iterator[Statements]:
    session = Session(shared_database, "tests")
    session.begin("read committed")
    assert session.statements.is_direct
    session.statements.is_direct = request.param == "prepared"
    yield session.statements
    session.drop()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=VALUES, other=VALUES)
def test_every_value_is_read_by_the_server_as_it_is(statements: Statements, one: Any, other: Any) -> None:
    def held(value: Any) -> Any:
        return value.replace("\0", "\ufffd") if isinstance(value, str) else value

    row = statements.execute("SELECT ?, 'a?''b:c%', ? AS more", (one, other)).fetchone()
    assert row is not None
    assert tuple(row) == (held(one), "a?'b:c%", held(other))
    row = statements.execute(
        "SELECT :one AS x, :other::text = :one::text", {"one": one, "other": other}
    ).fetchone()
    assert row is not None
    assert row["x"] == held(one)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(TEXTS | st.none(), st.integers(0, 2**63 - 1), st.binary()), min_size=1))
def test_many_rows_are_inserted_as_they_are(
    statements: Statements, rows: list[tuple[str | None, int, bytes]]
) -> None:
    statements.run("CREATE TEMPORARY TABLE IF NOT EXISTS taken (a TEXT, b BIGINT, c BYTEA)")
    statements.run("TRUNCATE taken")
    found = insert_rows(statements, "taken", ("a", "b", "c"), rows, "RETURNING *")
    assert [tuple(row) for row in found] == [(a and a.replace("\0", "\ufffd"), b, c) for a, b, c in rows]
    escapes = [('"', 0, b"\\"), ("\\,{}'", 1, b"'"), ("NULL", 2, b""), (" ", 3, b"\0"), ("", 4, b" ")]
    found = insert_rows(statements, "taken", ("a", "b", "c"), escapes, "RETURNING *")
    assert [tuple(row) for row in found] == escapes


def test_of_two_rows_with_one_key_the_first_is_inserted(statements: Statements) -> None:
    statements.run("CREATE TEMPORARY TABLE keyed (key TEXT PRIMARY KEY, n BIGINT)")
    end = "ON CONFLICT (key) DO NOTHING RETURNING key, n"
    found = insert_rows(statements, "keyed", ("key", "n"), [("a", 1), ("a", 2), ("b", 3)], end)
    assert [tuple(row) for row in found] == [("a", 1), ("b", 3)]
    assert insert_rows(statements, "keyed", ("key", "n"), [("b", 4)], end) == []


def test_a_statement_is_prepared_once_for_values_of_the_same_types(statements: Statements) -> None:
    def kept() -> int:
        (number,) = statements.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
        return int(number)

    before = kept()
    for value in (1, 2, None, "text", True, "other", None):
        row = statements.execute("SELECT ? AS value", (value,)).fetchone()
        assert row["value"] == value
    assert kept() - before == (4 if statements.is_direct else 0)


def test_too_many_statements_are_forgotten_between_two_transactions(shared_database: str) -> None:
    session = Session(shared_database, "tests")
    session.begin("read committed")
    for number in range(MOST_PREPARED - 1):
        session.statements.execute(f"SELECT ? AS n{number}", (number,))
    several = session.statements.executemany("SELECT ? AS last", [(1,), ("text",), (None,), (2,)])
    assert several.rowcount == 4
    for value in (1, "text", None, 2):
        session.statements.execute("SELECT ? AS last", (value,))
    session.commit()
    for _ in range(2):
        session.begin("read committed", "SELECT 1")
        (kept,) = session.statements.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
        assert 0 < kept < 5
        session.commit()
    session.drop()


def sent(sql: str, values: Values = ()) -> tuple[bytes, list[bytes]]:
    given = [dialect.sent(value) for value in in_order(sql, values)]
    return numbered(sql, tuple(number for number, _ in given)), [it for _, it in given if it is not None]


def test_a_hint_becomes_a_condition_of_the_index_and_a_state_a_text() -> None:
    sql = "SELECT min(a) FROM jobs INDEXED BY jobs_silent WHERE state = ? AND b = ? AND c = ?"
    text, values = sent(sql, (State.FAILED, None, -1))
    assert values == [b"failed", b"-1"]
    assert text.endswith(
        b" jobs WHERE jobs.id <> 'INDEXED BY jobs_silent' AND state = $1 AND b = NULL AND c = $2"
    )
    assert sent("SELECT 1 FROM marks AS a INDEXED BY b WHERE c") == (b"SELECT 1 FROM marks AS a WHERE c", [])


@pytest.mark.parametrize("values", [(), (1, 2), {"other": 1}])
def test_values_that_do_not_fit_are_refused(values: Any) -> None:
    with pytest.raises((TypeError, KeyError)):
        sent("SELECT :one" if isinstance(values, dict) else "SELECT ?", values)


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="float"):
        sent("SELECT ?", (1.5,))


def test_a_row_is_read_by_name_position_and_slice() -> None:
    row = row_type(("a", "b", "a"))((1, 2, 3))
    assert (row["a"], row["b"], row[2], row[1:], row.keys()) == (1, 2, 3, (2, 3), ["a", "b"])
    assert dict(**row) == {"a": 1, "b": 2}
