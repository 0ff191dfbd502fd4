"""The README's tables and its diagram say what the code says."""

import re
from pathlib import Path

import pytest
from starlette.datastructures import QueryParams
from starlette.routing import Route

from receiver.api import params
from receiver.bootstrap.app import open_receiver
from receiver.config import SETTINGS, Config, load
from receiver.core.errors import REASONS, BodyError, ConfigError
from receiver.core.jobs import FINAL, MOVES, State
from receiver.web.middleware import PUBLIC_PATHS
from receiver.web.problem import STATUS
from tests.docs.readme import README, ROOT, blocks, code, codes, section, table

SETTING_ROWS = {code(name): (default, meaning) for name, default, meaning in table(section("Settings"))}
NOTHING = "\N{EN DASH}"
FIELDS = {field.alias: name for name, field in Config.model_fields.items() if field.alias}


def test_the_settings_table_names_every_setting_and_no_other() -> None:
    assert sorted(SETTING_ROWS) == sorted(SETTINGS)


@pytest.mark.parametrize("setting", [name for name in SETTINGS if name in FIELDS])
def test_a_documented_default_given_as_the_value_is_the_default(setting: str) -> None:
    said = SETTING_ROWS[setting][0]
    default = getattr(load({}), FIELDS[setting])
    if said == NOTHING:
        assert default in (None, "", (), {})
    else:
        assert getattr(load({setting: code(said)}), FIELDS[setting]) == default


def test_the_settings_without_effect_are_those_that_nothing_reads() -> None:
    """Holds the README to the present version: a setting that begins to work, or ceases to, fails here."""
    sources = "\n".join(
        path.read_text()
        for path in (ROOT / "receiver").rglob("*.py")
        if path.name != "config.py" and path.parent.name != "doctor"  # which looks at all of them
    )
    unread = {
        setting for setting, field in FIELDS.items() if not re.search(rf"\bconfig\.{field}(_uri)?\b", sources)
    }
    said = {setting for setting, (_, meaning) in SETTING_ROWS.items() if "no effect yet" in meaning}
    assert said == unread


def test_confirming_needs_a_token_as_the_readme_says() -> None:
    wanted = {
        "RECEIVER_WEBHOOK_HEADERS": '{"X-Secret": "a"}',
        "RECEIVER_API_TOKENS": "a",
        "RECEIVER_CONFIRM": "on",
    }
    with pytest.raises(ConfigError, match="RECEIVER_CONFIRM"):
        load(wanted).check_serve()
    load({**wanted, "XIMILAR_API_TOKEN": "a"}).check_serve()


async def test_the_routes_table_names_every_route_and_whether_it_asks_for_a_token(tmp_path: Path) -> None:
    said = {code(route): token for route, token, _ in table(section("HTTP"))}
    config = load({"RECEIVER_DATA_DIR": str(tmp_path)})
    async with open_receiver(config, {}) as receiver:
        served = {
            f"{method} {route.path.rstrip('/') or '/'}": "no" if route.path in PUBLIC_PATHS else "yes"
            for route in receiver.app.routes
            if isinstance(route, Route)
            for method in (route.methods or set()) - {"HEAD"}
        }
    assert said == served


@pytest.mark.parametrize(
    ("route", "read"),
    [
        ("GET /jobs", lambda given: params.jobs(given, overdue_before=0)),
        ("GET /jobs/{id}", params.wait),
        ("GET /jobs/changes", lambda given: params.changes(given, ())),
        ("GET /deliveries", lambda given: params.deliveries(given, ())),
    ],
    ids=["jobs", "job", "changes", "deliveries"],
)
def test_the_parameters_of_a_route_are_those_that_it_takes(route: str, read) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001 - each returns something else
    (meaning,) = (meaning for found, _, meaning in table(section("HTTP")) if code(found) == route)
    with pytest.raises(BodyError) as refusal:
        read(QueryParams({"surely-unknown": "1"}))
    takes = refusal.value.detail.partition("the route takes ")[2].rstrip(".").split(", ")
    assert sorted(codes(meaning.partition("Parameters: ")[2])) == sorted(takes)


def test_the_webhooks_answers_are_those_of_the_code() -> None:
    rows = table(section("Answers to the webhook"))
    said = {code(reason): int(status) for status, reason, _ in rows if reason != NOTHING}
    assert [status for status, reason, _ in rows if reason == NOTHING] == ["200"]
    assert said == {reason: STATUS.get(reason, 503) for reason in said}
    raised = _reasons_in("intake.py", "completion.py", "ledger", "wire.py", family="body|auth") | {
        "body.not_allowed"
    }
    raised |= {"ledger.unavailable", "ledger.overloaded", "ledger.stopping", "ledger.corrupt"}
    assert set(said) == raised


def test_the_reasons_table_is_the_codes() -> None:
    assert {code(reason): meaning for reason, meaning in table(section("Reasons"))} == REASONS


def test_every_reason_in_the_readme_exists() -> None:
    families = "|".join(sorted({reason.partition(".")[0] for reason in REASONS}))
    named = re.findall(rf"`((?:{families})\.[a-z_]+)`", README)
    assert named
    assert set(named) <= set(REASONS)


def test_the_diagram_shows_exactly_the_legal_moves() -> None:
    (diagram,) = blocks("mermaid")
    arrows = re.findall(r"^ +(\S+) --> ([^:\s]+)", diagram, re.MULTILINE)
    drawn = {(before, after) for before, after in arrows if "[*]" not in (before, after)}
    assert drawn == {(before.value, after.value) for before, afters in MOVES.items() for after in afters}
    # Where a job can begin, and which states nothing leaves.
    assert {after for before, after in arrows if before == "[*]"} == {"submitted", "received", "failed"}
    assert {before for before, after in arrows if after == "[*]"} == {
        state.value for state in FINAL if not MOVES[state]
    }


def test_every_state_is_in_the_diagram() -> None:
    (diagram,) = blocks("mermaid")
    assert all(re.search(rf"\b{state.value}\b", diagram) for state in State)


def test_every_log_line_that_the_readme_explains_exists() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "receiver").rglob("*.py"))
    checks = {"ledger", "workers", "spool", "archive", "serving"}
    named = [name for said, _ in table(section("Operating")) for name in codes(said)]
    assert checks <= set(named)
    for name in named:
        assert f'"{name}"' in sources, name


def _reasons_in(*places: str, family: str) -> set[str]:
    found: set[str] = set()
    for place in places:
        path = ROOT / "receiver" / place
        for file in [path] if path.is_file() else path.rglob("*.py"):
            found |= set(re.findall(rf'"((?:{family})\.[a-z_]+)"', file.read_text())) & set(REASONS)
        found |= {"body.not_a_completion"}
    return found
