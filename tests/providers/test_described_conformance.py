"""What holds for every provider holds for a described one with each kind of proof."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.providers.samples.described import DESCRIBED
from tests.providers.test_conformance import (
    Desk,
    desk_of,
    test_a_body_that_is_no_end_is_answered_and_kept_nowhere,
    test_a_delivery_is_a_job_and_the_same_again_changes_nothing,
    test_a_failure_is_recorded,
    test_a_job_can_be_announced_by_the_providers_own_id,
    test_an_id_that_begins_with_a_dash_is_no_option_behind_a_name,
    test_each_output_is_a_job_of_its_own,
    test_foreign_and_deep_bodies_are_refused_and_kept,
    test_nobody_else_gets_in_and_no_answer_says_why,
    test_ten_thousand_outputs_are_refused_and_none_is_recorded,
)

__all__ = [
    "desk",
    "desk_of_running",
    "desk_of_several",
    "test_a_body_that_is_no_end_is_answered_and_kept_nowhere",
    "test_a_delivery_is_a_job_and_the_same_again_changes_nothing",
    "test_a_failure_is_recorded",
    "test_a_job_can_be_announced_by_the_providers_own_id",
    "test_an_id_that_begins_with_a_dash_is_no_option_behind_a_name",
    "test_each_output_is_a_job_of_its_own",
    "test_foreign_and_deep_bodies_are_refused_and_kept",
    "test_nobody_else_gets_in_and_no_answer_says_why",
    "test_ten_thousand_outputs_are_refused_and_none_is_recorded",
]


@pytest.fixture(params=DESCRIBED, ids=str)
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_of(DESCRIBED[request.param], tmp_path) as desk:
        yield desk


@pytest.fixture
def desk_of_several(desk: Desk) -> Desk:
    return desk


@pytest.fixture
def desk_of_running(desk: Desk) -> Desk:
    return desk
