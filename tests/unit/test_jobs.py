"""The states and their moves, against the table of the contract."""

from receiver.core.jobs import FINAL, MOVES, Image, State


def test_the_moves_are_those_of_the_contract() -> None:
    assert {(before.value, after.value) for before, afters in MOVES.items() for after in afters} == {
        ("submitted", "received"),
        ("submitted", "failed"),
        ("received", "fetched"),
        ("received", "rejected"),
        ("received", "expired"),
        ("fetched", "archived"),
        ("fetched", "received"),
        ("failed", "received"),
        ("rejected", "received"),
        ("expired", "received"),
    }


def test_every_state_has_its_line_and_each_but_the_first_can_be_reached() -> None:
    assert set(MOVES) == set(State)
    assert set().union(*MOVES.values()) == set(State) - {State.SUBMITTED}


def test_final_states_leave_only_to_received_and_archived_to_nothing() -> None:
    assert {state.value for state in FINAL} == {"archived", "failed", "rejected", "expired"}
    assert all(MOVES[state] <= {State.RECEIVED} for state in FINAL)
    assert MOVES[State.ARCHIVED] == frozenset()


def test_an_image_knows_its_ending_and_its_media_type() -> None:
    found = {
        (image.extension, image.content_type)
        for image in (Image(form, 1, 1, 1, "0" * 64) for form in ("jpeg", "png", "webp"))
    }
    assert found == {("jpg", "image/jpeg"), ("png", "image/png"), ("webp", "image/webp")}
