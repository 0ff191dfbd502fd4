"""Settings: what is read, what is refused, and that a refusal never repeats a value."""

import json
import re
import traceback
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.config import SETTINGS, Config, environment, load
from receiver.core.errors import ConfigError

DEFAULTS: dict[str, Any] = {
    "RECEIVER_WEBHOOK_HEADERS": {},
    "RECEIVER_SIGNING_KEYS": (),
    "RECEIVER_API_TOKENS": (),
    "RECEIVER_DATA_DIR": Path("./data").absolute(),
    "RECEIVER_LEDGER": None,
    "RECEIVER_INSTANCE": "",
    "RECEIVER_ARCHIVE": "",
    "RECEIVER_ARCHIVE_KEY": "{received:%Y/%m/%d}/{id}.{ext}",
    "RECEIVER_IMAGE_SOURCES": (),
    "RECEIVER_IMAGE_NETWORKS": (),
    "RECEIVER_URL_LIFETIME": {},
    "RECEIVER_REJECT_AFTER": timedelta(minutes=5),
    "RECEIVER_MAX_IMAGE_BYTES": 256 * 1024 * 1024,
    "RECEIVER_MAX_IMAGE_PIXELS": 512_000_000,
    "RECEIVER_MAX_WEBHOOK_BYTES": 256 * 1024,
    "RECEIVER_MAX_SPOOL_BYTES": 10 * 1024**3,
    "RECEIVER_FETCHES": 16,
    "RECEIVER_LEAST_RATE": 16 * 1024,
    "RECEIVER_UPLOADS": 8,
    "RECEIVER_OVERDUE_AFTER": timedelta(minutes=10),
    "RECEIVER_RECONCILE_EVERY": timedelta(minutes=1),
    "RECEIVER_RECONCILE_RATE": 1.0,
    "RECEIVER_KEEP_HISTORY": timedelta(days=90),
    "RECEIVER_KEEP_SOURCES": None,
    "XIMILAR_API_TOKEN": None,
    "REPLICATE_WEBHOOK_SECRET": (),
    "REPLICATE_API_TOKEN": None,
    "FAL_JWKS": "",
    "FAL_JWKS_URL": "",
    "FAL_KEY": None,
    "FREEPIK_WEBHOOK_SECRET": (),
    "FREEPIK_API_KEY": None,
    "RECEIVER_PROVIDERS": (),
    "RECEIVER_ADOPT": False,
    "RECEIVER_NOTIFY_URL": None,
    "RECEIVER_NOTIFY_SECRET": None,
    "RECEIVER_ALERT_URLS": (),
    "RECEIVER_BACKUP_EVERY": None,
    "RECEIVER_AUDIT_EVERY": None,
    "RECEIVER_CONFIRM": False,
    "RECEIVER_PUBLIC_URL": None,
    "RECEIVER_PUBLIC_ARCHIVE_URL": None,
    "RECEIVER_HOST": "127.0.0.1",
    "RECEIVER_PORT": 8080,
    "RECEIVER_TRUSTED_PROXIES": (),
    "RECEIVER_LOG": "auto",
}

API_URLS = {
    "XIMILAR_API_URL": "https://api.ximilar.com/account/v2",
    "REPLICATE_API_URL": "https://api.replicate.com/v1",
    "FAL_API_URL": "https://queue.fal.run/",
    "FREEPIK_API_URL": "https://api.freepik.com/",
}

WRONG: dict[str, tuple[str, ...]] = {
    "RECEIVER_WEBHOOK_HEADERS": (
        "canary",
        '["canary"]',
        '{"canary canary": "x"}',
        '{"X-A": []}',
        '{"X-A": ""}',
        '{"X-A": ["good", " canary"]}',
        '{"X-A": "cana\\nry"}',
        '{"X-A": 7}',
        '{"X-A": {"canary": 1}}',
        '{"X-A": "canary", "x-a": "canary2"}',
        '{"X-A": "canary", "X-A": "canary2"}',
        '{"canary":' * 20_000,
    ),
    "RECEIVER_SIGNING_KEYS": (
        '["canary"',
        '["canary", 7]',
        '["canary", ""]',
        '["canary\\u0000"]',
        "[" * 20_000,
        '{"a": "canary"}',
    ),
    "RECEIVER_API_TOKENS": (
        '{"a": "canary"}',
        ' {"canary"',
        '["canary',
        '[{"canary": 1}]',
        '[" canary"]',
        "canary\x7f",
        "canary\udcff",
    ),
    "RECEIVER_ARCHIVE": ("canary", "s3://", "file://canary", "https://canary/"),
    "RECEIVER_IMAGE_SOURCES": ('["canary"', "[7]", '{"https://canary/": 1}'),
    "RECEIVER_IMAGE_NETWORKS": (
        "canary",
        "127.0.0.1/33",
        "127.0.0.1/8",
        "10.0.0.0/8,canary",
        "[7.5]",
        "[5]",
        "{}",
    ),
    "RECEIVER_URL_LIFETIME": (
        "canary",
        "0",
        "-1h",
        "1w",
        "1h canary",
        "0.0000001s",
        "9" * 400,
        "101y",
        "a=1h,a=2h",
        "=1h",
        "a=",
        "1h,2h",
    ),
    "REPLICATE_WEBHOOK_SECRET": ("canary!", "whsec_", "whsec_canary!", "whsec_canary,canary!"),
    "REPLICATE_API_TOKEN": ("cana\nry",),
    "FAL_KEY": ("canary ",),
    "FREEPIK_WEBHOOK_SECRET": ('["canary"', '[" canary"]'),
    "FREEPIK_API_KEY": ("canarÿ",),
    "RECEIVER_MAX_IMAGE_BYTES": ("canary", "0", "-1", "0.5", "1canary", "9" * 400 + "GB", "1e9"),
    "RECEIVER_MAX_IMAGE_PIXELS": ("canary", "0", "-1", "1.5M", "9" * 5000, "1canary"),
    "RECEIVER_MAX_WEBHOOK_BYTES": ("canary", "0", "256 canary"),
    "RECEIVER_MAX_SPOOL_BYTES": ("canary", "0"),
    "RECEIVER_FETCHES": ("canary", "-1", "257", "1.5", "9" * 5000),
    "RECEIVER_LEAST_RATE": ("canary", "0", "-1", "16 canary"),
    "RECEIVER_UPLOADS": ("canary", "0", "257", "-1"),
    "RECEIVER_OVERDUE_AFTER": ("canary", "0m"),
    "RECEIVER_RECONCILE_EVERY": ("canary", "0s"),
    "RECEIVER_RECONCILE_RATE": ("canary", "0", "-1", "nan", "1001"),
    "RECEIVER_KEEP_HISTORY": ("canary", "0d"),
    "XIMILAR_API_TOKEN": ("cana\nry", "canary ", "canarÿ"),
    "XIMILAR_API_URL": ("canary", "ftp://canary/", "https://[canary"),
    "RECEIVER_ADOPT": ("canary", "yes", "1"),
    "RECEIVER_CONFIRM": ("canary",),
    "RECEIVER_NOTIFY_URL": ("canary", "mailto:canary"),
    "RECEIVER_NOTIFY_SECRET": (
        "canary",
        "whsec_",
        "whsec_canary",
        "whsec_canary!" + "A" * 25,
        "whsec_canarÿ" + "A" * 26,
        "whsec_canary" + "A" * 22,
        "whsec_canary" + "A" * 82,
        "canary" + "A" * 26,
        "whsk_canary" + "A" * 26,
    ),
    "RECEIVER_PUBLIC_URL": ("canary",),
    "RECEIVER_PORT": ("canary", "-1", "65536", "80.5"),
    "RECEIVER_TRUSTED_PROXIES": ("canary", "127.0.0.1/canary"),
    "RECEIVER_LOG": ("canary", "JSON"),
}


def by_alias(config: Config) -> dict[str, Any]:
    return {
        str(field.alias): getattr(config, name)
        for name, field in Config.model_fields.items()
        if not field.exclude
    }


def refused(environ: dict[str, str]) -> ConfigError | None:
    try:
        load(environ)
    except ConfigError as error:
        return error
    return None


def refusal(environ: dict[str, str]) -> str:
    error = refused(environ)
    assert error is not None
    return str(error)


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    found = by_alias(load({}))
    assert {name: str(found.pop(name)) for name in API_URLS} == API_URLS
    assert found == DEFAULTS


def test_every_setting_has_a_default_here_and_the_secrets_folder_is_a_setting_too() -> None:
    assert set(SETTINGS) == {*DEFAULTS, *API_URLS, "RECEIVER_SECRETS_DIR"}


def test_the_archive_is_a_folder_in_the_data_directory_unless_it_is_set(tmp_path: Path) -> None:
    assert load({"RECEIVER_DATA_DIR": str(tmp_path)}).archive_uri == (tmp_path / "archive").as_uri()
    assert load({"RECEIVER_ARCHIVE": "s3://bucket/a/b"}).archive_uri == "s3://bucket/a/b"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("RECEIVER_IMAGE_SOURCES", "https://*.a.com/, https://b/c/ ,", ("https://*.a.com/", "https://b/c/")),
        ("RECEIVER_IMAGE_SOURCES", '["https://a/", "https://b/,c"]', ("https://a/", "https://b/,c")),
        ("RECEIVER_IMAGE_NETWORKS", "127.0.0.1,::1/128", (ip_network("127.0.0.1"), ip_network("::1"))),
        ("RECEIVER_IMAGE_NETWORKS", '["10.0.0.0/8"]', (ip_network("10.0.0.0/8"),)),
        ("RECEIVER_URL_LIFETIME", "90", {"": timedelta(seconds=90)}),
        ("RECEIVER_URL_LIFETIME", "90s", {"": timedelta(seconds=90)}),
        ("RECEIVER_URL_LIFETIME", "1.5 h", {"": timedelta(minutes=90)}),
        ("RECEIVER_URL_LIFETIME", "a=1h, b=50m", {"a": timedelta(hours=1), "b": timedelta(minutes=50)}),
        ("RECEIVER_OVERDUE_AFTER", "15m", timedelta(minutes=15)),
        ("RECEIVER_KEEP_HISTORY", "7d", timedelta(days=7)),
        ("RECEIVER_MAX_IMAGE_BYTES", "64MiB", 64 * 1024 * 1024),
        ("RECEIVER_MAX_IMAGE_BYTES", "64 MB", 64_000_000),
        ("RECEIVER_MAX_IMAGE_BYTES", "1.5GiB", 1536 * 1024 * 1024),
        ("RECEIVER_MAX_IMAGE_BYTES", "64k", 64_000),
        ("RECEIVER_MAX_WEBHOOK_BYTES", "1000", 1000),
        ("RECEIVER_MAX_WEBHOOK_BYTES", "1000B", 1000),
        ("RECEIVER_MAX_IMAGE_PIXELS", "64M", 64_000_000),
        ("RECEIVER_MAX_IMAGE_PIXELS", "1000", 1000),
        ("RECEIVER_ADOPT", "on", True),
        ("RECEIVER_CONFIRM", "off", False),
        ("RECEIVER_PORT", "0", 0),
        ("RECEIVER_FETCHES", "256", 256),
        ("RECEIVER_LEAST_RATE", "4KiB", 4096),
        ("RECEIVER_LOG", "json", "json"),
        ("RECEIVER_HOST", "::", "::"),
    ],
)  # fmt: skip
def test_each_form_of_a_value_is_read(name: str, text: str, value: object) -> None:
    assert by_alias(load({name: text}))[name] == value


@pytest.mark.parametrize(
    ("text", "secrets"),
    [("new,old", ["new", "old"]), ('["new", "o,ld"]', ["new", "o,ld"]), (" one ", ["one"]), (",", [])],
)
@pytest.mark.parametrize("name", ["RECEIVER_SIGNING_KEYS", "RECEIVER_API_TOKENS"])
def test_lists_of_secrets_are_json_or_words_between_commas(name: str, text: str, secrets: list[str]) -> None:
    assert [secret.get_secret_value() for secret in by_alias(load({name: text}))[name]] == secrets


def test_a_header_has_one_accepted_value_or_several() -> None:
    headers = load({"RECEIVER_WEBHOOK_HEADERS": '{"X-One": "a", "X-Two": ["b", "c"]}'}).webhook_headers
    found = {name: [secret.get_secret_value() for secret in values] for name, values in headers.items()}
    assert found == {"X-One": ["a"], "X-Two": ["b", "c"]}


@pytest.mark.parametrize("name", SETTINGS)
def test_an_empty_value_is_none(name: str) -> None:
    assert load({name: ""}) == load({})


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in WRONG.items() for text in texts])
def test_a_wrong_value_is_refused_in_one_line_that_names_the_setting_and_not_the_value(
    name: str, text: str
) -> None:
    said = refusal({name: text})
    assert said.startswith(f"{name}: ")
    assert len(said) > len(f"{name}: ")
    assert "\n" not in said
    assert len(said) < 300
    assert "canary" not in said
    # The words of the library beneath speak to programmers.
    assert not re.search(r"Value error|\bshould\b|\binput\b", said, re.IGNORECASE)


@given(
    name=st.sampled_from([n for n in SETTINGS if n != "RECEIVER_SECRETS_DIR"]),
    before=st.text(max_size=10),
    after=st.text(max_size=10),
    form=st.sampled_from(["{}", '"{}"', '["{}"]', '{{"X-A": "{}"}}', '{{"X-A": ["{}"]}}', "1{}", "https://h:{}/"]),
)  # fmt: skip
def test_no_refusal_and_no_traceback_contains_the_value(
    name: str, before: str, after: str, form: str
) -> None:
    text = form.format(f"{before}cAnArY{after}")
    error = refused({name: text})
    if error is not None:
        assert str(error).startswith(f"{name}: ")
        assert "\n" not in str(error)
        assert "cAnArY" not in repr(error) + "".join(traceback.format_exception(error))


def test_secrets_show_nowhere_in_a_configuration() -> None:
    config = load(
        {
            "RECEIVER_WEBHOOK_HEADERS": '{"X-Secret": ["canary-a", "canary-b"]}',
            "RECEIVER_SIGNING_KEYS": "canary-c",
            "RECEIVER_API_TOKENS": "canary-d,canary-e",
            "XIMILAR_API_TOKEN": "canary-f",
            "RECEIVER_NOTIFY_SECRET": "whsec_canary" + "A" * 26,
        }
    )
    assert config.notify_secret is not None
    assert config.notify_secret.get_secret_value().startswith("whsec_canary")
    for shown in (str(config), repr(config), config.model_dump_json(), str(config.model_dump())):
        assert "canary" not in shown
        assert "X-Secret" in shown


def test_a_duration_alone_is_for_all_providers_but_lengthens_no_documented_life() -> None:
    hour, day, week = timedelta(hours=1), timedelta(days=1), timedelta(days=7)
    unset, short, long, named = (
        load({"RECEIVER_URL_LIFETIME": text}) for text in ("", "1h", "7d", "1h,b=7d")
    )
    assert unset.url_lifetime_of("a", day) == day
    assert short.url_lifetime_of("a", day) == hour
    assert long.url_lifetime_of("a", day) == day
    assert long.url_lifetime_of("a", day, documented=False) == week
    assert named.url_lifetime_of("a", day) == hour
    assert named.url_lifetime_of("b", day) == week


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load({}).port = 1


def test_an_unknown_setting_is_named_with_the_one_that_it_resembles() -> None:
    names = ("RECEIVER_API_TOKNES", "RECEIVER_QQQQQQ", "RECEIVER_XIMILAR_API_TOKEN", "HOME")
    config = load(dict.fromkeys(names, "canary"))
    assert config.unknown == (
        "RECEIVER_API_TOKNES (did you mean RECEIVER_API_TOKENS?)",
        "RECEIVER_QQQQQQ",
        "RECEIVER_XIMILAR_API_TOKEN (did you mean XIMILAR_API_TOKEN?)",
    )
    assert "canary" not in repr(config)


def test_settings_come_from_files_of_their_names_and_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / "RECEIVER_API_TOKENS").write_text("from-file\n", encoding="utf-8")
    (tmp_path / "RECEIVER_PORT").write_text("81", encoding="utf-8")
    (tmp_path / "RECEIVER_LOG").write_text("\n", encoding="utf-8")
    (tmp_path / "RECEIVER_HOST").write_text("0.0.0.0", encoding="utf-8")
    (tmp_path / "README").write_text("not a setting", encoding="utf-8")
    config = load({"RECEIVER_SECRETS_DIR": str(tmp_path), "RECEIVER_PORT": "82", "RECEIVER_HOST": ""})
    assert config.api_tokens[0].get_secret_value() == "from-file"
    assert (config.port, config.log, config.host, config.unknown) == (82, "auto", "0.0.0.0", ())


def test_a_wrong_value_in_a_file_is_refused_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "RECEIVER_PORT").write_text("canary", encoding="utf-8")
    said = refusal({"RECEIVER_SECRETS_DIR": str(tmp_path)})
    assert said.startswith("RECEIVER_PORT: ")
    assert "canary" not in said


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "RECEIVER_API_TOKENS").write_bytes(b"\xff\xfe")
    assert refusal({"RECEIVER_SECRETS_DIR": str(tmp_path)}).startswith("RECEIVER_API_TOKENS: ")


def test_a_folder_in_the_place_of_a_secret_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "RECEIVER_SIGNING_KEYS").mkdir()
    assert refusal({"RECEIVER_SECRETS_DIR": str(tmp_path)}).startswith("RECEIVER_SIGNING_KEYS: ")


def test_a_secrets_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refusal({"RECEIVER_SECRETS_DIR": str(tmp_path / "canary")}) == "RECEIVER_SECRETS_DIR: is no folder"


def test_a_dotenv_file_adds_to_the_environment_which_wins(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        '# comment\nRECEIVER_PORT=81\nexport RECEIVER_LOG="json"\nRECEIVER_HOST=\n'
        "RECEIVER_API_TOKENS='a$b${HOME}'\nRECEIVER_FETCHES=4\n",
        encoding="utf-8",
    )
    merged = environment({"RECEIVER_PORT": "82", "RECEIVER_FETCHES": "", "HOME": "/h"}, dotenv)
    assert merged == {
        "RECEIVER_PORT": "82",
        "RECEIVER_LOG": "json",
        "RECEIVER_API_TOKENS": "a$b${HOME}",
        "RECEIVER_FETCHES": "4",
        "HOME": "/h",
    }


def test_without_a_dotenv_file_the_environment_stands_alone(tmp_path: Path) -> None:
    assert environment({"A": "1", "B": ""}, tmp_path / ".env") == {"A": "1"}


def test_a_mark_of_the_encoding_is_no_part_of_a_name_or_a_value(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RECEIVER_PORT=81\n", encoding="utf-8-sig")
    assert environment({}, tmp_path / ".env") == {"RECEIVER_PORT": "81"}

    (tmp_path / "RECEIVER_API_TOKENS").write_text("token\n", encoding="utf-8-sig")
    (token,) = load({"RECEIVER_SECRETS_DIR": str(tmp_path)}).api_tokens
    assert token.get_secret_value() == "token"


def test_a_folder_in_the_place_of_a_dotenv_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    with pytest.raises(ConfigError, match=r"\.env: cannot be read"):
        environment({}, tmp_path / ".env")


def test_a_dotenv_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"RECEIVER_PORT=\xff\xfe")
    with pytest.raises(ConfigError, match=r"\.env: cannot be read"):
        environment({}, tmp_path / ".env")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("RECEIVER_PORT 9", 1),
        ("RECEIVER_PORT", 1),
        ("export RECEIVER_PORT", 1),
        ("RECEIVER_PORT: canary", 1),
        ("=canary", 1),
        ('RECEIVER_LOG="json', 1),
        ("RECEIVER_LOG='json", 1),
        ('RECEIVER_LOG="json" canary', 1),
        ("RECEIVER_HOST=canary\0", 1),
        ("RECEIVER_HOST=::\n# comment\n\n \t\n  RECEIVER_PORT 9\nRECEIVER_LOG=json\n", 5),
        ("RECEIVER_HOST=::\r\n\r\nRECEIVER_PORT 9\r\n", 3),
        ('RECEIVER_WEBHOOK_HEADERS=\'{\n"X-A": "canary"\n}\'\nRECEIVER_PORT 9', 4),
        ('RECEIVER_API_TOKENS="canary\nRECEIVER_ARCHIVE="s3://canary/x"\n', 1),
    ],
)
def test_a_dotenv_line_that_is_no_setting_is_refused_by_its_number_and_not_quoted(
    tmp_path: Path, text: str, line: int
) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(text.encode())
    with pytest.raises(ConfigError) as caught:
        environment({}, dotenv)
    assert str(caught.value).startswith(f"{dotenv}: line {line} is ")
    assert "\n" not in str(caught.value)
    for content in ("canary", "RECEIVER_", "json"):
        assert content not in str(caught.value).removeprefix(str(dotenv))


def test_comments_blank_lines_and_values_of_several_lines_are_no_broken_lines(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        "\n  # RECEIVER_PORT 9\n\nRECEIVER_LOG = json # as the shipper wants it\n"
        'RECEIVER_WEBHOOK_HEADERS=\'{\n"X-A": "a"}\'\n\n# end',
        encoding="utf-8",
    )
    headers = '{\n"X-A": "a"}'
    assert environment({}, dotenv) == {"RECEIVER_LOG": "json", "RECEIVER_WEBHOOK_HEADERS": headers}


SERVABLE = {"RECEIVER_WEBHOOK_HEADERS": '{"X-A": "a"}', "RECEIVER_API_TOKENS": "t"}


@pytest.mark.parametrize(
    "proof", [{"RECEIVER_WEBHOOK_HEADERS": '{"X-A": "a"}'}, {"RECEIVER_SIGNING_KEYS": "k"}]
)
def test_serve_is_content_with_either_proof_of_the_sender(proof: dict[str, str]) -> None:
    load({**proof, "RECEIVER_API_TOKENS": "t"}).check_serve()


def test_serve_confirms_deliveries_with_a_token_of_the_provider() -> None:
    load({**SERVABLE, "RECEIVER_CONFIRM": "on", "XIMILAR_API_TOKEN": "t"}).check_serve()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"RECEIVER_WEBHOOK_HEADERS": ""}, "RECEIVER_WEBHOOK_HEADERS"),
        ({"RECEIVER_WEBHOOK_HEADERS": "{}"}, "RECEIVER_WEBHOOK_HEADERS"),
        ({"RECEIVER_API_TOKENS": ""}, "RECEIVER_API_TOKENS"),
        ({"RECEIVER_API_TOKENS": "[]"}, "RECEIVER_API_TOKENS"),
        ({"RECEIVER_CONFIRM": "on"}, "RECEIVER_CONFIRM"),
        ({"RECEIVER_NOTIFY_URL": "https://host/"}, "RECEIVER_NOTIFY_SECRET"),
    ],
)
def test_serve_refuses_what_would_let_anyone_in_or_could_not_work(changes: dict[str, str], name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({**SERVABLE, **changes}).check_serve()
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


def test_without_a_provider_the_refusal_names_what_switches_each_on() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"RECEIVER_API_TOKENS": "t", "REPLICATE_API_TOKEN": "r8_x"}).check_serve()
    for name in (
        "RECEIVER_SIGNING_KEYS",
        "REPLICATE_WEBHOOK_SECRET",
        "FAL_JWKS_URL",
        "FREEPIK_WEBHOOK_SECRET",
    ):
        assert name in str(caught.value)


def test_a_header_value_survives_json_with_letters_beyond_ascii() -> None:
    config = load({"RECEIVER_WEBHOOK_HEADERS": json.dumps({"X-A": "žluťoučký"})})
    assert config.webhook_headers["X-A"][0].get_secret_value() == "žluťoučký"
