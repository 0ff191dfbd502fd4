"""The settings: one frozen ``Config``, built from an environment that is passed in.

pydantic-settings would read the process's environment by itself, and its errors repeat the values; here the
environment is an argument, and a message names the setting and never what it holds.
"""

import base64
import difflib
import ipaddress
import json
import re
import socket
import unicodedata
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv.parser import parse_stream
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    TypeAdapter,
    ValidationError,
)

from receiver.core.errors import ConfigError
from receiver.core.failpoints import ARMED_BY, CONTAINER
from receiver.core.ledger_location import LedgerLocation

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WORDS = {
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "float_parsing": "must be a number",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
    "string_too_short": "must not be empty",
    "url_parsing": "must be a URL such as https://host/path",
    "url_scheme": "must be a URL such as https://host/path",
    "ip_v4_network": "must be networks such as 10.0.0.0/8 or 127.0.0.1/32",
    "ip_v6_network": "must be networks such as 10.0.0.0/8 or 127.0.0.1/32",
}
"""What pydantic's errors mean, by its name for their kind."""

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token of RFC 9110, 5.6.2."""


def duration(value: Any) -> timedelta:
    """Parse a span of time as settings write it: ``90``, ``90s``, ``10m``, ``24h`` or ``90d``.

    Raise `ValueError` for others, with a text that says what it must be.
    """
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(value).strip(), re.ASCII)
    if match is None:
        raise ValueError("must be a duration such as 90s, 10m, 24h or 90d")
    seconds = float(match[1]) * _UNITS[match[2] or "s"]
    if not 0.001 <= seconds <= 100 * 365 * 86400:
        raise ValueError("must be a duration of at least 0.001s and at most 100 years")
    return timedelta(seconds=seconds)


def _lifetimes(value: Any) -> Any:
    """Parse ``24h``, or ``ximilar=24h,replicate=50m``; the name of a duration alone is empty."""
    if not isinstance(value, str):
        return value
    found: dict[str, timedelta] = {}
    for part in value.split(","):
        name, named, span = part.rpartition("=")
        name = name.strip()
        if bool(named) != bool(name) or name in found:
            raise ValueError("must be a duration such as 24h, or one for each provider: ximilar=24h,fal=5d")
        found[name] = duration(span)
    return found


def _size(value: Any) -> Any:
    """Parse ``256MiB``, ``1.5 GB``, ``64k`` or ``1000``. Pydantic's ByteSize would repeat an unknown unit."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*(?:([KMGT])(I?))?B?", str(value).strip().upper())
    if match is None:
        raise ValueError("must be a size such as 256MiB, 10GB or 1000")
    power = "KMGT".index(match[2]) + 1 if match[2] else 0
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def _count(value: Any) -> Any:
    """Parse ``512M`` or ``512000000``."""
    text = str(value).strip()
    if re.fullmatch(r"\d{1,15}\s*[KMG]?", text) is None:
        raise ValueError("must be a number such as 512M or 512000000")
    return _size(text)


def _list(value: Any) -> Any:
    """Parse a JSON list, or words with commas between them."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("{"):  # else the object itself would be a word, such as a token that nobody sends
        raise ValueError("must be a JSON list, or words with commas between them, and no JSON object")
    if text.startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("is not a JSON list") from None
        if not all(isinstance(word, str) for word in found):
            raise ValueError("must be a JSON list of nothing but strings")
        return found
    return [word.strip() for word in text.split(",") if word.strip()]


def _alert_urls(value: Any) -> Any:
    """Parse a JSON list, or URLs with blanks or commas between them: a comma may also stand in a URL."""
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return _list(value)
    return [url for url in re.split(r"[\s,]+(?=[A-Za-z][A-Za-z0-9]*://)", value.strip(" \t\n,")) if url]


def _have_schemes(urls: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    for number, url in enumerate(urls, 1):
        if not re.match(r"[A-Za-z][A-Za-z0-9]*://.", url.get_secret_value()):
            raise ValueError(f"its entry {number} is no URL of Apprise, such as ntfys://host/topic")
    return urls


def _headers(value: Any) -> Any:
    """Parse a JSON object of header names to one accepted value or a list of them."""
    if isinstance(value, str):
        try:
            pairs = json.loads(value, object_pairs_hook=list) if value.lstrip().startswith("{") else None
        except (ValueError, RecursionError):
            pairs = None
        if pairs is None:
            raise ValueError('must be a JSON object such as {"X-Webhook-Secret": ["new", "old"]}')
        if len({name.lower() for name, _ in pairs}) < len(pairs):
            # JSON itself would let the last one win, and deliveries with the first would be refused.
            raise ValueError("names a header twice; several accepted values stand in a list")
        value = {name: [values] if isinstance(values, str) else values for name, values in pairs}
    for name, values in value.items():
        if not isinstance(values, list | tuple) or not all(isinstance(it, str | SecretStr) for it in values):
            raise ValueError("must give each header a string, or a list of strings")
        if not HEADER_NAME.fullmatch(name):
            raise ValueError("has a name that HTTP does not allow for a header")
        if not values:
            raise ValueError(f"has no accepted value for {name}")
    return value


def _check(is_good: Callable[[str], object], message: str) -> AfterValidator:
    """Return a check of a text, a secret or several secrets."""

    def check(value: Any) -> Any:
        for each in value if isinstance(value, tuple) else (value,):
            text = each.get_secret_value() if isinstance(each, SecretStr) else each
            if text is not None and not is_good(text):
                raise ValueError(message)
        return value

    return AfterValidator(check)


def _is_sent_as_is(text: str) -> bool:
    return text == text.strip() != "" and not any(unicodedata.category(c) in ("Cc", "Cs") for c in text)


def _key(text: str) -> bytes:
    """Return the key of a secret in base64, as the Standard Webhooks write it; empty if it is none."""
    try:
        return base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except ValueError:
        return b""


def _is_database(url: str) -> bool:
    """Return ``False`` also for what libpq would read in another way than it was meant, and then repeat."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    is_url = parts.scheme in ("postgresql", "postgres") and "://" in url and len(parts.path) > 1
    # A password with such a character in it would be taken for a part of the host or the database.
    is_plain = url.count("@") == parts.netloc.count("@") <= 1 and not parts.fragment
    return is_url and is_plain and _PRINTABLE.fullmatch(url) is not None


def _switch(value: Any) -> Any:
    words = {"on": True, "off": False, True: True, False: False}
    if value not in words:
        raise ValueError("must be on or off")
    return words[value]


def _endpoint(url: HttpUrl | None) -> HttpUrl | None:
    if url is not None and (url.query or url.fragment or url.username or url.password):
        raise ValueError("must be a URL such as https://host or http://host:port")
    return url


_SENT_AS_IS = _check(
    _is_sent_as_is,
    "has a value that is empty, is no UTF-8, or has blanks around it or control characters in it",
)
_PRINTABLE = re.compile(r"[\x21-\x7e]+")

Duration = Annotated[timedelta, BeforeValidator(duration)]
Size = Annotated[int, BeforeValidator(_size)]
Switch = Annotated[bool, BeforeValidator(_switch)]
Words = Annotated[tuple[str, ...], BeforeValidator(_list)]
Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_list), _SENT_AS_IS]
Base64Secrets = Annotated[Secrets, _check(_key, "has a value that is not whsec_ and base64")]
AlertUrls = Annotated[
    tuple[SecretStr, ...], BeforeValidator(_alert_urls), _SENT_AS_IS, AfterValidator(_have_schemes)
]
# What a header cannot carry would be repeated by the HTTP client's error at the first request.
Token = Annotated[
    SecretStr | None,
    _check(_PRINTABLE.fullmatch, "has a character that is no printable ASCII, or a blank"),
]
WebhookSecret = Annotated[
    SecretStr | None,
    _check(
        lambda text: text.startswith("whsec_") and 24 <= len(_key(text)) <= 64,
        "must be whsec_ and the base64 of 24 to 64 random bytes; `receiver init` prints a fresh one",
    ),
]
Database = Annotated[
    SecretStr | None,
    _check(
        _is_database,
        "must be postgresql://user@host/database; in user and password, all but letters and digits is"
        " percent-encoded",
    ),
]
Instance = Annotated[
    str,
    _check(
        re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,62})?").fullmatch,
        "must be 1 to 63 letters, digits, dots, dashes and underscores",
    ),
]
ArchiveUri = Annotated[
    str, _check(re.compile(r"\Z|s3://[^/]+|file:///").match, "must be s3://bucket/prefix or file:///folder")
]
Lifetimes = Annotated[dict[str, timedelta], BeforeValidator(_lifetimes)]
Networks = Annotated[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...], BeforeValidator(_list)]
Headers = Annotated[dict[str, Annotated[tuple[SecretStr, ...], _SENT_AS_IS]], BeforeValidator(_headers)]


PROVIDERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "ximilar": (("webhook_headers", "signing_keys"), "ximilar_api_token"),
    "replicate": (("replicate_webhook_secret",), "replicate_api_token"),
    "fal": (("fal_jwks", "fal_jwks_url"), "fal_key"),
    "freepik": (("freepik_webhook_secret",), "freepik_api_key"),
}
"""Of each provider the fields of which any switches it on, and the one with which it is asked."""

_OWN_NAMES = tuple(f"{name}_" for name in PROVIDERS)
"""Beginnings of the settings that belong to one provider, whose users know them by these names."""


def variable(name: str) -> str:
    """Return the environment's variable of a field."""
    return name.upper() if name.startswith(_OWN_NAMES) else f"RECEIVER_{name.upper()}"


class Config(BaseModel):
    """Every setting of the program, checked. The aliases are the environment variables' names.

    The text below a field is its description in ``docs/reference/settings.md``. Durations are ``timedelta``;
    sizes are bytes; secrets show as ``**********`` wherever they are printed.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=variable,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    webhook_headers: Headers = {}
    """The headers that prove the webhook's sender, each with its accepted value, or with a list of them
    during a rotation: `{"X-Webhook-Secret": ["new", "old"]}`. A delivery must carry all of these headers.
    `serve` needs this setting or `RECEIVER_SIGNING_KEYS`."""
    signing_keys: Secrets = ()
    """With keys, each delivery must also carry a ticket in `X-Receiver-Job` that one of them signed. The
    first key signs, all verify. `receiver submit` issues the tickets; leave this unset where other programs
    submit."""
    api_tokens: Secrets = ()
    """The tokens that open the HTTP API and the status page. `serve` does not start without."""
    data_dir: Annotated[Path, AfterValidator(Path.absolute)] = Field(Path("./data"), validate_default=True)
    """The folder of the ledger, the spool and, where no other archive is named, the archive. A second `serve`
    on the same folder refuses to start."""  # absolute, so that messages that name it say where it is
    ledger: Database = None
    """The database of a ledger that several receivers share: `postgresql://user@host/database`. The password
    may also come as libpq takes it, from `PGPASSWORD` or a password file. Unset: a file in the data
    directory."""
    instance: Instance = ""
    """The name of this receiver among others on the same database. Unset: the host's name."""
    archive: ArchiveUri = ""
    """Where images are archived: `s3://bucket/prefix` or `file:///folder`; unset: the folder `archive` in the
    data directory. The endpoint, region and credentials of S3 are the AWS SDK's own: all of its `AWS_`
    variables work, in the environment and in `.env`, and so do its files."""
    public_archive_url: Annotated[HttpUrl | None, AfterValidator(_endpoint)] = None
    """The endpoint of S3 under which people reach the store, such as `https://s3.example.com`, where that is
    another than this receiver's own. The URLs of images lead there."""
    archive_key: str = "{received:%Y/%m/%d}/{id}.{ext}"
    """The object's key in the archive. It must hold `{id}`; `{ref}`, `{sha256}`, `{endpoint}` and
    `{provider}` are known too."""
    image_sources: Words = ()
    """URL prefixes from which images may come; the first label may be `*.`: `https://*.ximilar.com/`,
    `https://host/path/`. Unset: any public `https` host."""
    image_networks: Networks = ()
    """Networks from which images may come although they are not public, such as `127.0.0.1/32`. Plain `http`
    is allowed only there."""
    url_lifetime: Lifetimes = {}
    """How long an image URL works where neither it nor the completion states its end: `24h`, or one duration
    for each provider: `ximilar=24h,replicate=50m`. A duration alone is for all providers, but does not
    lengthen a life that a provider documents. Unset: Ximilar 24 h, Replicate 1 h from the job's end, fal 7 d,
    Freepik 12 h."""
    reject_after: Duration = timedelta(minutes=5)
    """How long an image URL has to give the same wrong answer, three times at least, before its job is
    `rejected`. Near the URL's end, half of the time left suffices."""
    max_image_bytes: Size = Field(256 * 2**20, ge=1)
    """The largest image, as a file."""
    max_image_pixels: Annotated[int, BeforeValidator(_count)] = Field(512 * 10**6, ge=1)
    """The largest image, as width times height."""
    max_webhook_bytes: Size = Field(256 * 2**10, ge=1)
    """The largest body of a delivery."""
    max_spool_bytes: Size = Field(10 * 2**30, ge=1)
    """The most that images may take on disk while they wait for the archive. Downloads pause while no further
    one fits: each may take `RECEIVER_MAX_IMAGE_BYTES`, and 256 MiB of the disk stay free for the ledger."""
    fetches: int = Field(16, ge=0, le=256)
    """The most downloads at a time. Each host begins with 4, and gets more as the line carries them; while
    images of other hosts wait, it gets half of this number at most. With 0 nothing is downloaded: other
    receivers on the ledger do that while this one's disk empties."""
    least_rate: Size = Field(16 * 2**10, ge=1)
    """Bytes a second below which a download is given up, over each 20 seconds, and tried again later. A host
    gets no further download at a time unless each gets twice this rate."""
    uploads: int = Field(8, ge=1, le=256)
    """Uploads at a time."""
    overdue_after: Duration = timedelta(minutes=10)
    """How long a submitted job may wait for its completion before it counts as overdue."""
    reconcile_every: Duration = timedelta(minutes=1)
    """The time between two rounds of asking the provider about overdue jobs, and the least time between two
    questions about one job."""
    reconcile_rate: float = Field(1.0, gt=0, le=1000)
    """The most questions a second to the provider about jobs without a completion."""
    keep_history: Duration = timedelta(days=90)
    """How long history is kept. Older archived jobs lose their history and the raw body of their delivery;
    older unreadable deliveries and settled submissions are removed. Jobs stay."""
    keep_sources: Literal["off", "small"] | None = None
    """Whether a small picture of a job's source, of 1,600 pixels at most, is kept in the archive below
    `.sources/`, for `RECEIVER_KEEP_HISTORY`. Unset: of files that `receiver submit` sends. `small`: of URLs
    too, which are fetched like images, so that `RECEIVER_IMAGE_SOURCES` holds for them. `off`: of none."""
    ximilar_api_token: Token = None
    """The API token of your account at the provider. `submit` needs it. With it, the provider is asked about
    overdue jobs, and for a fresh URL before a job expires. `receiver sandbox` takes it as its own token."""
    ximilar_api_url: HttpUrl = HttpUrl("https://api.ximilar.com/account/v2")
    """The base of the provider's API."""
    replicate_webhook_secret: Base64Secrets = ()
    """The signing secrets of your account at Replicate, each `whsec_…`; any of them proves a delivery.
    Switches Replicate on."""
    replicate_api_token: Token = None
    """For asking Replicate. It is also sent to Replicate's own file hosts, over https, and to no other."""
    replicate_api_url: HttpUrl = HttpUrl("https://api.replicate.com/v1")
    """The base of Replicate's API."""
    fal_jwks: str = ""
    """The keys that fal.ai signs with, pinned: the JSON of a JWKS, or a path to a file of it. This or
    `FAL_JWKS_URL` switches fal on."""
    fal_jwks_url: str = ""
    """Where fal's keys are read; `default` is fal's own address. They are kept for 24 h at most, and the last
    good ones serve while they cannot be read."""
    fal_key: Token = None
    """For asking fal."""
    fal_api_url: HttpUrl = HttpUrl("https://queue.fal.run")
    """The base of fal's queue."""
    freepik_webhook_secret: Secrets = ()
    """The webhook secrets of your account at Freepik; any of them proves a delivery. Switches Freepik on."""
    freepik_api_key: Token = None
    """For asking Freepik."""
    freepik_api_url: HttpUrl = HttpUrl("https://api.freepik.com")
    """The base of Freepik's API."""
    providers: Words = ()
    """Files in TOML that describe further providers, each as a path. [Describing a
    provider](../guide/describing-a-provider.md) has their language."""
    adopt: Switch = False
    """`on`: completed jobs of the account that nobody announced are taken in too, once they are as old as
    `RECEIVER_OVERDUE_AFTER`."""
    notify_url: HttpUrl | None = None
    """Gets a signed POST for each job that becomes final. It may be anywhere, loopback and private networks
    included. Needs `RECEIVER_NOTIFY_SECRET`."""
    notify_secret: WebhookSecret = None
    """Signs the notifications: `whsec_` and the base64 of 24 to 64 random bytes. `receiver init` prints a
    fresh one."""
    alert_urls: AlertUrls = ()
    """Where alerts go, as URLs of [Apprise](https://appriseit.com/services/): `mailtos://`, `slack://`,
    `discord://`, `tgram://`, `ntfys://`, `workflows://` (Teams), `jsons://` and a hundred more. Needs the
    extra `alerts`."""
    backup_every: Duration | None = None
    """How often `receiver backup` is run; no backup within this time is an alert, also before the first.
    Unset: backups are not watched."""
    audit_every: Duration | None = None
    """How often `receiver audit` is run; no audit that ended within this time is an alert, also before the
    first. Unset: audits are not watched."""
    confirm: Switch = False
    """`on`: a delivery, a failure too, is only a hint; the image URL and size come from the provider's own
    answer. A failure that it confirms is `rejected` as `provider.job_failed`. Needs the token of each
    provider that is on, such as `XIMILAR_API_TOKEN`."""
    public_url: HttpUrl | None = None
    """The address by which the provider reaches this receiver, such as `https://receiver.example.com`.
    `submit` gives the provider this address with `/webhooks/ximilar` behind it."""
    host: str = Field("127.0.0.1", min_length=1)
    """The address to listen on. The container image sets `0.0.0.0`."""
    port: int = Field(8080, ge=0, le=65535)
    """The port to listen on; 0: any free one."""
    trusted_proxies: Networks = ()
    """Networks of the proxies in front of this receiver, such as `127.0.0.1/32`. Where the peer is one of
    them, limits for each client go by the last address in `X-Forwarded-For` that is none of them, and else by
    the peer's."""
    log: Literal["auto", "json", "text"] = "auto"
    """The form of log lines; `auto`: text on a terminal, else JSON."""

    unknown: tuple[str, ...] = Field((), exclude=True)
    """Unknown ``RECEIVER_*`` variables, each with the setting that it may stand for."""

    @property
    def ledger_location(self) -> LedgerLocation:
        """Where the ledger is."""
        url = None if self.ledger is None else self.ledger.get_secret_value()
        return LedgerLocation(self.data_dir, url, self.instance or socket.gethostname())

    @property
    def archive_uri(self) -> str:
        """Where images are kept: ``s3://bucket/prefix`` or ``file:///folder``."""
        return self.archive or (self.data_dir.resolve() / "archive").as_uri()

    @property
    def public_address(self) -> str:
        """The public address for people: without a user, a password and a query; empty without one."""
        if self.public_url is None:
            return ""
        parts = urlsplit(str(self.public_url))
        netloc = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=netloc, query="", fragment="").geturl().rstrip("/")

    @property
    def can_submit(self) -> bool:
        """Whether `receiver submit` has what it asks the provider with."""
        return self.ximilar_api_token is not None

    @property
    def runs_every(self) -> dict[str, timedelta]:
        """How often runs should end, by their names."""
        every = {"backup": self.backup_every, "audit": self.audit_every}
        return {name: span for name, span in every.items() if span is not None}

    def url_lifetime_of(self, provider: str, own: timedelta, *, documented: bool = True) -> timedelta:
        """Return the life of a provider's URLs; ``own`` without a setting, ``documented`` if it says so."""
        if provider in self.url_lifetime:
            return self.url_lifetime[provider]
        every = self.url_lifetime.get("", own)
        return min(every, own) if documented else every

    def missing_for_serve(self) -> tuple[str, ...]:
        """Return a line for each missing setting that only the server needs.

        Without them the server would admit anyone, or could not do what other settings ask for.
        """
        found = []
        on = [token for switches, token in PROVIDERS.values() if any(getattr(self, it) for it in switches)]
        if not on and not self.providers:
            first, *others = (variable(it) for switches, _ in PROVIDERS.values() for it in switches)
            found.append(
                f"{first}: neither this nor another setting that switches a provider on is set"
                f" ({', '.join(others)}, RECEIVER_PROVIDERS), so anyone could deliver;"
                " `receiver init` prints a .env with fresh secrets"
            )
        if not self.api_tokens:
            found.append(
                "RECEIVER_API_TOKENS: not set, so nobody could ask for a job;"
                " `receiver init` prints a .env with fresh secrets"
            )
        found += [
            f"RECEIVER_CONFIRM: is on, and needs {variable(token)} to ask the provider with"
            for token in on
            if self.confirm and getattr(self, token) is None
        ]
        if self.notify_url is not None and self.notify_secret is None:
            found.append(
                "RECEIVER_NOTIFY_SECRET: is needed to sign what goes to RECEIVER_NOTIFY_URL;"
                " `receiver init` prints a fresh one"
            )
        return tuple(found)

    def check_serve(self) -> None:
        """Raise `ConfigError` with the first line of `missing_for_serve`."""
        for line in self.missing_for_serve():
            raise ConfigError(line)


SETTINGS: tuple[str, ...] = (
    *(variable(name) for name, field in Config.model_fields.items() if not field.exclude),
    "RECEIVER_SECRETS_DIR",
)
"""The names of all environment variables that are settings."""


NO_SETTINGS = (ARMED_BY, CONTAINER)
"""Variables of the tests and of the container, which users do not set."""


def environment(environ: Mapping[str, str], dotenv: Path) -> dict[str, str]:
    """Return the environment with what a ``.env`` file adds to it; empty values count as none.

    Raise `ConfigError` if the file cannot be read, or one of its lines is no setting.
    """
    written = _read_dotenv(dotenv) if dotenv.exists() else {}
    return {name: value for layer in (written, environ) for name, value in layer.items() if value}


def load(environ: Mapping[str, str]) -> Config:
    """Build the configuration from an environment and, for the rest, from ``RECEIVER_SECRETS_DIR``.

    Raise `ConfigError` with a line that names the first wrong setting.
    """
    try:
        return _build(environ)
    except ValidationError as error:
        raise ConfigError(_messages(error)[0]) from None


def load_partly(environ: Mapping[str, str]) -> tuple[Config, tuple[str, ...]]:
    """Build the configuration without the wrong settings, and return a line for each of those.

    Raise `ConfigError` if what is set cannot be read, so that nothing is known of any setting.
    """
    try:
        return _build(environ), ()
    except ValidationError as error:
        wrong = _messages(error)
        return _build(environ, without=named(wrong)), wrong


def text_of(name: str, environ: Mapping[str, str]) -> str:
    """Return the text of a variable that is no setting, of the environment or of ``RECEIVER_SECRETS_DIR``.

    Raise `ConfigError` with a line that names it if it is not set, or cannot be read.
    """
    text = environ.get(name) or _read_secrets(environ.get("RECEIVER_SECRETS_DIR"), (name,)).get(name)
    if not text:
        raise ConfigError(f"{name}: not set, and a provider of RECEIVER_PROVIDERS needs it")
    return text


def secrets_of(name: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of such a variable that holds secrets. A `ConfigError` names it, as in `text_of`."""
    try:
        found = TypeAdapter(Secrets).validate_python(text_of(name, environ))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise ConfigError(f"{name}: {error_text(fault['type'], fault['msg'], {})}") from None
    if not found:
        raise ConfigError(f"{name}: not set, and a provider of RECEIVER_PROVIDERS needs it")
    return tuple(secret.get_secret_value() for secret in found)


def named(lines: Collection[str]) -> frozenset[str]:
    """Return the settings that such lines begin with."""
    return frozenset(line.partition(":")[0] for line in lines)


def origins(environ: Mapping[str, str], dotenv: Path) -> dict[str, str]:
    """Return the origin of each setting that is set: ``environment``, ``.env`` or ``RECEIVER_SECRETS_DIR``.

    Raise `ConfigError` if a file cannot be read.
    """
    written = environment({}, dotenv)
    own = {name: value for name, value in environ.items() if value}
    found = {
        **dict.fromkeys(
            _read_secrets({**written, **own}.get("RECEIVER_SECRETS_DIR")), "RECEIVER_SECRETS_DIR"
        ),
        **dict.fromkeys(written, ".env"),
        **dict.fromkeys(own, "environment"),
    }
    return {name: found[name] for name in SETTINGS if name in found}


def hidden(environ: Mapping[str, str], dotenv: Path) -> tuple[str, ...]:
    """Return the names that a ``.env`` file gives another value than the environment, which wins.

    Raise `ConfigError` if the file cannot be read.
    """
    return tuple(
        name for name, value in environment({}, dotenv).items() if environ.get(name, "") not in ("", value)
    )


def _build(environ: Mapping[str, str], without: Collection[str] = ()) -> Config:
    given = {**_read_secrets(environ.get("RECEIVER_SECRETS_DIR")), **{k: v for k, v in environ.items() if v}}
    values: dict[str, Any] = {name: given[name] for name in SETTINGS if name in given and name not in without}
    values.pop("RECEIVER_SECRETS_DIR", None)
    known = {*SETTINGS, *NO_SETTINGS}
    strangers = sorted(name for name in given if name.startswith("RECEIVER_") and name not in known)
    return Config(**values, unknown=tuple(_with_suggestion(name) for name in strangers))


def _messages(error: ValidationError) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for fault in error.errors(include_url=False, include_input=False):
        name = str(fault["loc"][0]) if fault["loc"] else "settings"
        found.setdefault(name, error_text(fault["type"], fault["msg"], fault.get("ctx", {})))
    return tuple(f"{name}: {message}" for name, message in found.items())


def error_text(kind: str, message: str, bounds: Mapping[str, Any]) -> str:
    """Return what is wrong with a value in words for users; pydantic's own are for programmers."""
    own = _WORDS.get(kind)
    return own.format_map(bounds) if own else message.removeprefix("Value error, ")


def _read_dotenv(path: Path) -> dict[str, str]:
    try:
        # Some editors begin a file with a mark of its encoding, which would be part of the first name.
        with path.open(encoding="utf-8-sig") as file:
            bindings = list(parse_stream(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__})") from None
    found = {}
    for key, value, (text, first), unreadable in bindings:
        if unreadable or "\0" in text or (key is not None and value is None):
            # Passed over, as python-dotenv does it, its setting would silently be the default. The parser
            # counts from the blank lines before it.
            line = first + text[: len(text) - len(text.lstrip())].count("\n")
            raise ConfigError(f"{path}: line {line} is no NAME=value, or its quotation mark is not closed")
        if key is not None and value is not None:
            found[key] = value
    return found


def _read_secrets(directory: str | None, names: Collection[str] = SETTINGS) -> dict[str, str]:
    if not directory:
        return {}
    folder = Path(directory)
    if not folder.is_dir():
        raise ConfigError("RECEIVER_SECRETS_DIR: is no folder")
    found = {}
    for name in names:
        try:
            text = (folder / name).read_text(encoding="utf-8-sig").strip()
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}: its file cannot be read ({type(error).__name__})") from None
        if text:
            found[name] = text
    return found


def _with_suggestion(name: str) -> str:
    # Without the prefix, which would make any name resemble any other.
    words = {setting.removeprefix("RECEIVER_"): setting for setting in SETTINGS}
    close = difflib.get_close_matches(name.removeprefix("RECEIVER_"), words, n=1)
    return f"{name} (did you mean {words[close[0]]}?)" if close else name
