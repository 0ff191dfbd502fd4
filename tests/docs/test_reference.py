"""The pages of docs/reference/ are what the code says."""

import pytest

from receiver.config import Config, load
from tools.reference import outdated, settings

FIELDS = {field.alias: name for name, field in Config.model_fields.items() if field.alias}


def test_the_reference_is_generated_from_the_present_code() -> None:
    assert outdated() == [], "run `.venv/bin/python -m tools.reference`"


@pytest.mark.parametrize("setting", FIELDS)
def test_a_default_as_it_is_written_gives_the_default(setting: str) -> None:
    name = FIELDS[setting]
    written = settings.default(Config.model_fields[name])

    assert getattr(load({setting: written} if written else {}), name) == getattr(load({}), name)
