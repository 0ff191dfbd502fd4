"""Checks of remote systems: the archive, the provider, and the receiver as the provider reaches it."""

import asyncio
import contextlib
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from receiver.alerts.channels import check
from receiver.archive.base import ProbeResult
from receiver.archive.factory import open_archive
from receiver.bootstrap import factories
from receiver.config import Config
from receiver.core import errors
from receiver.core.concurrency import run_in_thread
from receiver.core.paths import WEBHOOKS, webhook_path
from receiver.doctor.checks import Level, Result, failure, ok, skipped, warning
from receiver.doctor.machine import cannot_create
from receiver.ledger import LedgerReader
from receiver.providers.base import Calls, Provider, Providers
from receiver.web.challenge import (
    ARRIVED_HEADER,
    CHALLENGE_HEADER,
    PROOF_HEADER,
    new_challenge,
    prove,
    read_key,
)
from receiver.web.reachability import PROXY_ERRORS, Answer, ask, causes, explain, origin, tls_remedy, why_not

CLOCK_WARNING, CLOCK_FAILURE = 10.0, 60.0
"""Seconds that two clocks may differ by."""

SET_CLOCK = "Let this machine's clock be set by NTP (timedatectl set-ntp true), and look again."

CLOSE_SECONDS = 2.0
START_SERVE = "Start `receiver serve`, and look again."
REPORT = "The log says why. If it stays, report it as a bug."

_READINESS_REMEDIES: Mapping[str, str] = {
    "ledger": "Make room on the disk, or repair the rights of RECEIVER_DATA_DIR; if the ledger's file was"
    " moved or replaced, put it back, or restart serve.",
    "workers": "Restart serve, keep its log, and report it as a bug.",
    "spool": "Repair the archive, make room on the disk, or raise RECEIVER_MAX_SPOOL_BYTES.",
    "decoder": "The log says why none starts: the installation, memory, or the limit of processes. serve"
    " tries again by itself.",
    "archive": "Correct what the reason names; serve looks again by itself. Images wait on this disk"
    " meanwhile.",
    "serving": "It is shutting down; start it again.",
}

_ARCHIVE_REMEDIES: Mapping[str, str] = {
    "archive.denied": "Look at the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the SDK's"
    " files), and allow s3:PutObject and s3:GetObject on the prefix.",
    "archive.no_bucket": "Make the bucket or the folder's parent, mount it, or correct RECEIVER_ARCHIVE.",
    "archive.misconfigured": "Look at AWS_ENDPOINT_URL_S3, AWS_REGION, AWS_CA_BUNDLE and RECEIVER_ARCHIVE.",
    "archive.clock_skew": SET_CLOCK,
    "archive.full": "Make room at the archive.",
    "archive.unavailable": "Is it up, and does AWS_ENDPOINT_URL_S3 (or RECEIVER_ARCHIVE) name it rightly?"
    " Images wait on this disk meanwhile.",
}

_MISSING_FEATURES: Mapping[str, tuple[str, str]] = {
    "conditional-writes": ("Nothing is overwritten all the same.", "Let nothing else write to the prefix."),
    "simultaneous-writes": (
        "One receiver alone never writes a key twice at once.",
        "Let nothing else write to the prefix, and no second receiver.",
    ),
    "metadata": (
        "",
        "Use a store that keeps metadata (the JuiceFS gateway: --object-meta), or back up the ledger well.",
    ),
    "presigned-urls": (
        "This machine tried it; others may reach it.",
        "Set RECEIVER_PUBLIC_ARCHIVE_URL if people use another address. Else the store does not take them.",
    ),
    "sha256": ("The MD5 takes its place.", "A store that checks SHA-256 spares that work."),
    "checksum-kept": ("It costs traffic.", "A store that keeps SHA-256 checksums spares that."),
    "delete": (
        "That harms nothing.",
        "Remove them by a lifecycle rule on .receiver-probe/, or allow deletes there.",
    ),
}


async def check_archive(config: Config, environ: Mapping[str, str]) -> list[Result]:
    """Write, read, compare and remove a small object, as `serve` does at its start."""
    uri = config.archive_uri
    folder = Path(urlsplit(uri).path) if uri.startswith("file:") else None
    used = False
    with contextlib.suppress(errors.LedgerError):  # there is no ledger, or its own check reports it
        async with await LedgerReader.open(config.ledger_location) as ledger:
            used = await factories.is_archive_used(ledger, uri)
    if folder is not None and not used and not folder.exists():
        # Not created here: `serve` may run as another user.
        return [await run_in_thread(lambda: _check_parent(folder, config.data_dir.resolve()))]
    try:
        archive = await run_in_thread(
            lambda: open_archive(
                uri, uploads=1, environ=environ, used=used, public_url=factories.public_endpoint(config)
            )
        )
    except errors.ConfigError as error:
        # `check_settings` reports wrong settings; here only what depends on `environ` is reported.
        if str(error) in await run_in_thread(lambda: [*factories.wrong_settings(config, environ)]):
            return [skipped("archive", f"{str(error).partition(':')[0]} is wrong")]
        return [failure("archive", str(error), "Correct the setting; the AWS SDK reads it, too.")]
    try:
        findings = await archive.probe()
    except errors.ArchiveError as error:
        remedy = _ARCHIVE_REMEDIES.get(error.reason, "Look at what the store says.")
        if folder is not None and error.reason == "archive.denied":
            remedy = (
                "Give the folder to the user that runs serve; if it is mounted read-only, mount it to write."
            )
        return [failure("archive", f"{error.reason}: {error.detail}", remedy)]
    finally:
        # Do not wait again for a store that does not answer.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await archive.aclose()
    return probe_results(archive.uri, findings)


def _check_parent(folder: Path, data_dir: Path) -> Result:
    # `serve` creates the data directory, but no other parent, which may be a mount that is missing.
    made = data_dir == folder.parent or folder.parent in data_dir.parents
    if not made and not folder.parent.exists():
        detail = f"{folder} is not there, nor {folder.parent} that it should be made in"
        return failure("archive", detail, _ARCHIVE_REMEDIES["archive.no_bucket"])
    if why := cannot_create(folder):
        remedy = "Correct RECEIVER_ARCHIVE, or make the folder and give it to the user that runs serve."
        return failure("archive", f"{folder} is not there, and {why}", remedy)
    return ok("archive", f"{folder} is not there yet; serve makes it")


def probe_results(uri: str, findings: tuple[ProbeResult, ...]) -> list[Result]:
    found = [ok("archive", f"{uri}: written, verified, read and removed a small object")]
    for finding in findings:
        if finding.honoured:
            found += [ok("clock", finding.detail)] if finding.name == "clock" else []
        elif finding.name == "clock":
            found.append(failure("clock", finding.detail, SET_CLOCK))
        else:
            reference = "See docs/reference/settings.md, RECEIVER_ARCHIVE."
            effect, remedy = _MISSING_FEATURES.get(finding.name, ("", reference))
            found.append(warning("archive", f"{finding.detail} {effect}".strip(), remedy))
    return found


def clock_offset(date: str, asked: float, answered: float) -> float | None:
    """Return the seconds by which a clock is ahead, negative if it is behind; ``None`` if unknown.

    ``date`` is an answer's Date header, in whole seconds. The request was sent at ``asked`` and answered at
    ``answered``, in seconds since the epoch.
    """
    try:
        seconds = parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return None
    return max(seconds - answered, 0.0) + min(seconds + 1 - asked, 0.0)


def check_clock(peer: str, difference: float | None) -> list[Result]:
    """Check the difference between two clocks, in seconds; ``None`` if unknown."""
    if difference is None:
        return []
    size = abs(difference)
    if size < CLOCK_WARNING:
        return [ok("clock", f"agrees with {peer}'s")]
    side = "behind" if difference > 0 else "ahead of"
    level = failure if size >= CLOCK_FAILURE else warning
    return [level("clock", f"this machine's clock is {size:.0f} seconds {side} {peer}'s", SET_CLOCK)]


async def check_provider(provider: Provider, name: str) -> list[Result]:
    """Read a provider's keys, and ask it something that is free, such as for its list of jobs."""
    both = await asyncio.gather(_check_keys(provider, name), _check_token(provider, name))
    return [result for results in both for result in results]


async def _check_keys(provider: Provider, name: str) -> list[Result]:
    try:
        number = await provider.proof.count_keys()
    except errors.AuthError as error:
        remedy = "May this machine reach it? Until then deliveries are answered with 503, and sent again."
        return [failure(name, error.detail, remedy)]
    what = f"{number} {'key proves' if number == 1 else 'keys prove'} its deliveries"
    return [] if number is None else [ok(name, what)]


async def _check_token(provider: Provider, name: str) -> list[Result]:
    if not provider.has_token:
        fresh = ", nor fresh URLs for dead ones" if provider.fresh_urls else ""
        detail = f"{provider.token_setting} is not set: jobs that stay silent are not asked for{fresh}"
        return [warning(name, detail, provider.asking_remedy)]
    asked = time.time()
    offsets: list[float | None] = [None]

    def read_clock(headers: httpx.Headers) -> None:
        offsets.append(clock_offset(headers.get("date", ""), asked, time.time()))

    client = provider.open_client(Calls(on_headers=read_clock))
    assert client is not None
    try:
        async with contextlib.aclosing(client):
            await client.probe()
    except errors.ProviderError as error:
        found = await _provider_failure(error, provider, name)
    else:
        found = ok(name, f"{origin(provider.api_url)} takes the token")
    return [found, *check_clock("the provider", offsets[-1])]


async def _provider_failure(error: errors.ProviderError, provider: Provider, name: str) -> Result:
    detail, url = f"{error.reason}: {error.detail}", provider.api_url
    if isinstance(error, errors.TokenRefusedError):
        remedy = f"Set {provider.token_setting} to the token of your account, as it stands there."
    elif isinstance(error, errors.NoCreditsError):
        remedy = "Buy credits; what was submitted already is received all the same."
    elif isinstance(error, errors.RateLimitedError):
        return warning(name, detail, "Lower RECEIVER_RECONCILE_RATE, and look again in a while.")
    else:
        remedy = f"Is {origin(url)} right ({provider.url_setting}), and may this machine reach it?"
        try:
            await ask(url, {})
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as cause:
            detail += f" ({explain(cause)})"
    return failure(name, detail, remedy)


_url_failure = partial(failure, "public URL")
_url_warning = partial(warning, "public URL")


async def check_public_url(config: Config, providers: Providers, *, serving: bool) -> list[Result]:
    """Check that RECEIVER_PUBLIC_URL leads to this installation.

    The installation proves itself by answering a challenge, so that no secret is sent to another server. The
    check uses the route from this machine; the provider's may differ. ``serving`` tells whether a server runs
    on the data directory, and so can answer.
    """
    if config.public_url is None and not config.can_submit:
        needing = "`receiver submit`, test deliveries and the links of alerts need it"
        return [ok("public URL", f"RECEIVER_PUBLIC_URL is not set; {needing}")]
    if config.public_url is None:
        detail = (
            "RECEIVER_PUBLIC_URL is not set, so `receiver submit` and `receiver test-delivery` do not work"
        )
        return [_url_warning(detail, "Set it to the address that the provider reaches this receiver by.")]
    url = str(config.public_url).rstrip("/")
    parts = urlsplit(url)
    for provider in providers.values():
        if parts.path.endswith(path := webhook_path(provider.name)):
            detail = f"RECEIVER_PUBLIC_URL ends with {path}, which is added to it"
            return [_url_failure(detail, "Leave that away at its end.")]
    first = next(iter(providers.values()), None)
    if first is None:
        return [skipped("public URL", "no provider is on")]
    found = check_hostname(config, parts.hostname or "", providers)
    if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
        detail = (
            "RECEIVER_PUBLIC_URL is not https: who is on the way reads the secret header of each delivery"
        )
        remedy = "Put TLS in front (docs/operations/deploy.md), and set the https address."
        found.append(_url_warning(detail, remedy))
    key = read_key(config.data_dir)
    challenge = new_challenge()
    try:
        answer = await ask(url + webhook_path(first.name), {CHALLENGE_HEADER: challenge})
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return [*found, unreachable(error, url, serving=serving)]
    proof = None if key is None else prove(key, challenge)
    result = interpret_answer(answer, url, proof, serving=serving)
    found.append(result)
    if result.level is Level.OK:
        found += [await _check_headers(url, provider) for provider in providers.values()]
    return found


def check_hostname(config: Config, host: str, providers: Providers) -> list[Result]:
    """Check that the providers could reach a host of this name."""
    hosts = [urlsplit(provider.api_url).hostname or "" for provider in providers.values()]
    provider = next((name for name in hosts if not _is_private(name)), None)
    if not _is_private(host) or provider is None:
        return []
    detail = f"{host} is an address of this machine or its network, where {provider} never gets to"
    remedy = "Set RECEIVER_PUBLIC_URL to the address that the provider reaches this receiver by."
    # Without a token nothing is submitted from here, so the provider does not learn the address.
    certain = _is_loopback(host) and config.can_submit
    return [(_url_failure if certain else _url_warning)(detail, remedy)]


def unreachable(error: BaseException, url: str, *, serving: bool) -> Result:
    detail = f"{origin(url)} is not reached from here: {explain(error)}"
    if not serving and not isinstance(error, httpx.InvalidURL) and _may_be_stopped(error):
        return _url_warning(detail, START_SERVE)
    return _url_failure(
        detail,
        tls_remedy(error)
        or "Look at DNS, firewall and proxy. If only this machine cannot reach it (a router that leads"
        " nothing back inside), look from another one.",
    )


def interpret_answer(answer: Answer, url: str, proof: str | None, *, serving: bool = True) -> Result:
    """Return the result of the answer to a challenge, which this installation would answer with ``proof``."""
    where, status = origin(url), answer.status
    given = answer.headers.get(PROOF_HEADER.lower())
    if status in PROXY_ERRORS and not serving:
        detail = f"something answers at {where}, but does not reach the receiver behind it ({status})"
        return _url_warning(detail, START_SERVE)
    if (why := why_not(answer, url)) is not None:
        return _url_failure(*why)
    if given is None:
        detail = f"something else than this receiver answers below {where}{WEBHOOKS} ({status})"
        remedy = "Correct RECEIVER_PUBLIC_URL, or let the proxy pass that path on. Is the receiver older?"
    elif given != proof:
        detail = f"another installation of the receiver answers at {where}"
        remedy = "Correct RECEIVER_PUBLIC_URL, or the proxy's target; or RECEIVER_DATA_DIR is another's."
    else:
        return ok("public URL", f"{where} leads to this installation")
    return _url_failure(detail, remedy)


async def _check_headers(url: str, provider: Provider) -> Result:
    """Check that the headers arrive that prove a sender, by made-up values."""
    challenge, names, path = new_challenge(), provider.proof.names, webhook_path(provider.name)
    headers = {**dict.fromkeys(names, challenge), CHALLENGE_HEADER: challenge}
    try:
        answer = await ask(url + path, headers)
    except (httpx.HTTPError, OSError) as error:
        return failure("webhook", f"is not reached: {explain(error)}", "Look at the proxy.")
    if ARRIVED_HEADER.lower() not in answer.headers:
        return failure(
            "webhook",
            f"{origin(url)} answers {answer.status} to a request with the webhook's headers",
            f"Let the proxy pass {path} on as it is.",
        )
    arrived = answer.headers[ARRIVED_HEADER.lower()].split(", ")
    dropped = [name for name in names if name.lower() not in arrived]
    if dropped:
        return failure(
            "webhook",
            f"{origin(url)} drops the header {' and '.join(dropped)}, so each delivery is refused there",
            "Name it with letters, digits and hyphens alone, in RECEIVER_WEBHOOK_HEADERS and where jobs are"
            " submitted; or let the proxy pass it (nginx: underscores_in_headers on; ignore_invalid_headers"
            " off;).",
        )
    return ok("webhook", f"{origin(url)} passes {path} on, with its headers")


async def check_alerts(config: Config) -> list[Result]:
    """Check that Apprise reads the URLs of alerts; nothing is sent."""
    try:
        channels = factories.alert_channels(config)
    except errors.ConfigError:  # the check of the settings says so
        return []
    wrong = await check(channels) if channels else {}
    remedy = "Correct it in RECEIVER_ALERT_URLS: https://appriseit.com/services/"
    found = [failure("alerts", f"{name}: {why}", remedy) for name, why in wrong.items() if why is not None]
    if channels and not found:
        found.append(ok("alerts", f"{', '.join(channels)} can be read; `receiver alert --test` tries them"))
    return found


async def check_readiness(config: Config, *, elsewhere: bool) -> list[Result]:
    """Check the readiness that the running server reports.

    ``elsewhere`` tells whether it may run in another container, where its address is not reachable from here.
    """
    if config.port == 0:
        return []
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)  # noqa: S104 - what is listened on
    url = f"http://{f'[{host}]' if ':' in host else host}:{config.port}"
    try:
        answer = await ask(f"{url}/readyz", {})
        failing: Mapping[str, str] = json.loads(answer.body)["failing"]
        return [
            failure("serve", f"is not ready: {name}: {why}", _READINESS_REMEDIES.get(name, REPORT))
            for name, why in failing.items()
        ] or [ok("serve", "is ready")]
    except (httpx.HTTPError, OSError) as error:
        detail = f"does not answer at {url}: {explain(error)}"
    except (ValueError, KeyError, AttributeError, TypeError):
        detail = f"something else answers at {url}"
    if elsewhere:
        return [warning("serve", detail, "If it runs in another container, run this there.")]
    remedy = "If it was started just now, look again. Else: do RECEIVER_HOST and RECEIVER_PORT fit?"
    return [failure("serve", detail, remedy)]


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "[::1]", "::1") or host.endswith(".localhost") or host.startswith("127.")


def _is_private(host: str) -> bool:
    """Return whether a host is private to this machine or its network, judging by its name."""
    with contextlib.suppress(ValueError):
        return not ipaddress.ip_address(host.strip("[]")).is_global
    return _is_loopback(host)


def _may_be_stopped(error: BaseException) -> bool:
    """Return whether starting the server could help: nothing listens, or a proxy gets no answer."""
    known = list(causes(error))
    if any(isinstance(cause, socket.gaierror | ssl.SSLError) for cause in known):
        return False
    silence = httpx.TimeoutException | httpx.RemoteProtocolError
    return any(isinstance(it, silence | ConnectionRefusedError | ConnectionResetError) for it in known)
