"""Checks of the settings: they are known, fit together, and their secrets are strong and private."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from receiver.bootstrap import factories
from receiver.bootstrap.secrets import offline_keys, online_secrets, weak_secrets
from receiver.config import PROVIDERS, SETTINGS, Config, hidden, named, variable
from receiver.doctor.checks import Result, failure, ok, warning
from receiver.doctor.machine import IN_MEMORY, mount_of

FRESH = "`receiver init` prints fresh ones; while you rotate, a list takes the old one too."
THEIRS = "Copy the whole of what the provider shows."
FIX_SETTING = "Correct it where it is set: the environment, .env, or a file in RECEIVER_SECRETS_DIR."


def check_settings(
    config: Config,
    origins: Mapping[str, str],
    wrong: Collection[str] = (),
    environ: Mapping[str, str] = MappingProxyType({}),
) -> list[Result]:
    """Check that the settings are known, valid and fit together.

    ``config`` holds the settings that are valid each for itself; ``wrong`` has a line for each other one.
    """
    found = [
        warning("settings", f"{name} means nothing here", "Correct its name, or remove it.")
        for name in config.unknown
    ]
    # Without those that are missing, or do not fit, only because a setting is wrong.
    wrong_names = named(wrong)
    faults = [
        line
        for line in (*config.missing_for_serve(), *factories.wrong_settings(config, environ))
        if not any(n in line for n in wrong_names)
    ]
    found += [failure("settings", fault, FIX_SETTING) for fault in (*wrong, *faults)]
    for provider, (switches, token) in PROVIDERS.items():
        if getattr(config, token) is not None and not any(getattr(config, name) for name in switches):
            detail = f"{variable(token)} is set, but {provider} is off: its deliveries are answered with 404"
            found.append(warning("settings", detail, f"Set {' or '.join(map(variable, switches))}."))
    if not found:
        found.append(ok("settings", f"{len(origins)} are set, and all are understood"))
    if not config.image_sources and "RECEIVER_IMAGE_SOURCES" not in wrong_names:
        detail = "RECEIVER_IMAGE_SOURCES is empty: images are fetched from any public https host"
        remedy = "Set it to the hosts that your results come from: `receiver jobs --json` shows them."
        found.append(warning("image sources", detail, remedy))
    return [*found, *_check_notify(config)]


def check_secrets(config: Config, environ: Mapping[str, str]) -> list[Result]:
    """Check that no secret can be guessed, and that no two settings share one."""
    online, offline = online_secrets(config), offline_keys(config)
    found = [
        (failure if as_none else warning)(
            "secrets", f"{name}: {what}", FRESH if name.startswith("RECEIVER_") else THEIRS
        )
        for name, as_none, what in weak_secrets(config)
    ]
    remedy = "Give each a value of its own; `receiver init` prints fresh ones."
    owner: dict[str, str] = {}
    for name, secret in _all_secrets(config, environ):
        if (other := owner.setdefault(secret, name)) != name:
            detail = f"{other} and {name} share a value, so who must know the one knows the other"
            found.append(failure("secrets", detail, remedy))
    if not online and not offline:
        return found  # `check_settings` reports that some are required
    return found or [ok("secrets", f"{len(online) + len(offline)} are long enough, and none stands twice")]


def check_dotenv(path: Path) -> list[Result]:
    """Check that no other user of this machine can read .env."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return []
    if mode & 0o077:
        return [warning(".env", "can be read by other users of this machine", f"chmod 600 {path}")]
    return [ok(".env", "is its owner's alone")]


def check_hidden(own: Mapping[str, str], dotenv: Path) -> list[Result]:
    """Check that the environment does not differ from .env."""
    if not (names := hidden(own, dotenv)):
        return []
    what = "has another value" if len(names) == 1 else "have other values"
    detail = f"{', '.join(names)} {what} there than in the environment, which wins"
    return [
        warning(".env", detail, "Correct the one, or unset the other; serve may run in another environment.")
    ]


def check_secret_files(folder: Path, mounts: str) -> list[Result]:
    """Check that no other user of this machine can read the files in RECEIVER_SECRETS_DIR.

    Files that a container or systemd mounts there are readable by design, and by no other user. ``mounts`` is
    the text of /proc/self/mounts; empty if there is none.
    """
    if not folder.stat().st_mode & 0o001:
        return []
    names = ", ".join(
        name
        for name in SETTINGS
        if (file := folder / name).is_file() and file.stat().st_mode & 0o004 and not _is_mounted(file, mounts)
    )
    detail = f"other users of this machine can read files in RECEIVER_SECRETS_DIR: {names}"
    return [warning("secret files", detail, f"chmod 700 {folder}")] if names else []


def _is_mounted(file: Path, mounts: str) -> bool:
    """Return whether a file was mounted for this process: by itself, with its folder, or in memory."""
    on = mount_of(file.resolve(), mounts)
    return on is not None and (
        on.kind in IN_MEMORY or on.point in (str(file.resolve()), str(file.parent.resolve()))
    )


def settings_report(
    config: Config, origins: Mapping[str, str], wrong: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return every setting with its source and its value, without secrets; ``None`` if it is wrong."""
    wrong_names = named(wrong)
    return [
        {
            "name": name,
            "value": None if name in wrong_names else _public_value(getattr(config, field)),
            "from": origins.get(name, "default"),
        }
        for field, info in Config.model_fields.items()
        if (name := info.alias) and not info.exclude
    ]


def secret_values(config: Config, environ: Mapping[str, str]) -> list[str]:
    return [secret for _, secret in _all_secrets(config, environ)]


def _all_secrets(config: Config, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield from online_secrets(config)
    yield from offline_keys(config)
    for name, field in Config.model_fields.items():
        value = getattr(config, name)
        for secret in value if isinstance(value, tuple) else (value,):
            if hasattr(secret, "get_secret_value"):
                yield field.alias or name, secret.get_secret_value()
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        if environ.get(name):
            yield name, environ[name]


def _check_notify(config: Config) -> list[Result]:
    if config.notify_url is None:
        return []
    if config.notify_url.scheme != "https":
        detail = "RECEIVER_NOTIFY_URL is not https: what is told can be read and changed on the way"
        return [warning("notify", detail, "Use https, unless it never leaves this machine.")]
    if config.notify_secret is None:
        return []  # `check_settings` reports it
    return [ok("notify", f"finished jobs are told to {config.notify_url.host}")]


def _public_value(value: Any) -> Any:
    if hasattr(value, "get_secret_value"):
        return "set"
    if isinstance(value, dict):
        return {name: [_public_value(each) for each in values] for name, values in value.items()}
    if isinstance(value, tuple):
        return [_public_value(each) for each in value]
    text = str(value)
    if "://" in text:  # a URL can hold a password, or be a secret itself
        parts = urlsplit(text)
        text = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        return text + (
            parts.path if parts.scheme in ("s3", "file") else "/…" if parts.path.strip("/") else ""
        )
    try:
        json.dumps(value)
    except TypeError:
        return text
    return value
