"""What a provider is: the interface of each package below, and the values that cross it.

The rest of the program knows these types, and no provider by its name. docs/guide/adding-a-provider.md shows
how a package is written. Nothing here does I/O but a `Client`. All times are whole ms since the epoch, UTC.
"""

import ssl
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar

import httpx

from receiver.config import Config
from receiver.core.clock import Clock, wall_clock
from receiver.core.completion import Completion, Failure
from receiver.core.errors import AuthError
from receiver.core.headers import RawHeaders
from receiver.core.rate_limit import RateLimiter
from receiver.core.url_expiry import Deadline, deadline


@dataclass(frozen=True, slots=True)
class Setup:
    """What a provider is made from.

    ``environ`` is the environment with what a ``.env`` adds to it. It holds what only a description of a
    provider names, such as the variable of its secret.
    """

    config: Config
    environ: Mapping[str, str]
    now: Clock = wall_clock


# What a delivery proves.

TICKET_LIFETIME = timedelta(days=7)
"""How long a ticket is accepted: far longer than a job takes, and short enough to make a leak harmless."""


@dataclass(slots=True)  # a frozen one takes three times as long to make, and each delivery makes one
class Proof:
    """What a proved delivery says beside its body. A provider without custom headers returns ``Proof()``.

    ``ticket`` is the ticket's number, which is bound to one job; ``None`` without tickets.
    ``mark`` is that of the submission, where `receiver submit` made it. ``ref_dropped``: a
    reference came that cannot be one.
    """

    ticket: str | None = None
    ref: str | None = None
    mark: str | None = None
    ref_dropped: bool = field(default=False, compare=False)


# What a body says.


@dataclass(slots=True)  # a frozen one takes three times as long to make, and each delivery makes one
class Output:
    """One file of a job that ended well, and what is promised of it. Make it with `output_of`.

    Attributes:
        url: where the file is; ``None`` for an output that is no file, such as a text, and with ``failure``.
        bytes: of the file.
        content_type: of the file, such as ``image/png``; what is not ``image/…`` is rejected unfetched.
        ends_at: the end of the URL's life, where the body states one.
        failure: why what stands in the place of the URL is none. The other outputs are not lost by it.
    """

    url: str | None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    content_type: str | None = None
    ends_at: int | None = None
    failure: Failure | None = None


@dataclass(slots=True)
class Ending:
    """The end of a job, as a delivery or an answer states it.

    With ``failure`` it ended badly. With outputs it ended well. With neither, the body does not hold what
    came of it, and the provider is asked for it.

    Attributes:
        id: the provider's own; `is_provider_id` holds, or, where ids are bare, `is_bare_id`.
        ended_at: by the provider's clock. The life of the outputs' URLs is counted from then. Without it,
            from the receipt.
        source_url: of the submitted image; it is only shown.
        endpoint: the model or kind of upscaling; `Client.get` gets it back.
    """

    id: str
    outputs: Sequence[Output] = ()
    failure: Failure | None = None
    ended_at: int | None = None
    source_url: str | None = None
    endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """A body about a job that has not ended; ``status`` in the provider's word. Nothing of it is kept."""

    id: str
    status: str


Reading = Ending | Running

_NO_OUTPUT = Output(None)


@dataclass(frozen=True, slots=True)
class OwnDelivery:
    """A delivery that this installation makes itself, to try the way; proved like the provider's."""

    headers: Mapping[str, bytes] = field(repr=False)
    body: bytes


# What asking gives.


@dataclass(frozen=True, slots=True)
class Report:
    """The provider's present answer on a job.

    Attributes:
        status: in the provider's word; unknown words are kept.
        ending: set if and only if the job has ended.
        ref: the submitter's reference, where the answer repeats what was submitted; so ``mark``.
        body: the answer as JSON without secrets and without what it echoes of the request, of at most
            256 KiB; it is kept with the job.
    """

    id: str
    status: str
    ending: Ending | None = None
    ref: str | None = None
    mark: str | None = None
    body: bytes = field(default=b"{}", repr=False)


@dataclass(frozen=True, slots=True)
class Listed:
    """A job in the provider's list.

    ``ended``: it will not change any more. ``adoptable``: it is of a kind whose images can be taken in.
    """

    id: str
    status: str
    created: int | None
    ended: bool
    adoptable: bool = True


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job of the provider's list with the mark of its submission, if it carries one.

    ``read``: the provider has answered on it; otherwise its mark is not known.
    """

    id: str
    mark: str | None
    read: bool = True


@dataclass(frozen=True, slots=True)
class Calls:
    """How a client calls out: the same for every provider.

    Attributes:
        before_attempt: awaited before each attempt at a call, to keep a rate.
        on_result: called after each call with the reason of its failure, or ``None``.
        on_headers: called with the headers of each answer.
        verify: as httpx takes it.
        transport: of tests.
        limit: returns what keeps another rate, in calls a second, when it is awaited before each of them.
    """

    before_attempt: Callable[[], Awaitable[object]] | None = None
    on_result: Callable[[str | None], object] = lambda _: None
    on_headers: Callable[[httpx.Headers], object] = lambda _: None
    verify: ssl.SSLContext | bool = True
    transport: httpx.AsyncBaseTransport | None = None
    limit: Callable[[float], Callable[[], Awaitable[object]]] = lambda rate: RateLimiter(rate).wait


class Client(ABC):
    """Asks a provider's API. `providers.api.ApiClient` does the calls for most.

    Every method raises `ProviderError` where the provider refuses, does not answer, or not readably. Details
    hold no secret.
    """

    lists: ClassVar[bool] = False
    """Whether `pages` works. Only then can jobs be adopted."""
    finds_submissions: ClassVar[bool] = False
    """Whether `submitted_since` works."""

    @abstractmethod
    async def get(self, job_id: str, endpoint: str | None = None) -> Report:
        """Return the provider's answer on one job, by its own id. An unknown one raises `UnknownJobError`."""

    @abstractmethod
    async def probe(self) -> None:
        """Ask something harmless: it returns if the token is good and the provider answers."""

    def pages(self) -> AsyncGenerator[list[Listed], None]:
        """Yield the account's jobs, each once, one page of the provider's at a time."""
        raise NotImplementedError

    def submitted_since(
        self, since: datetime, others: Collection[str] = ()
    ) -> AsyncGenerator[Submitted, None]:
        """Yield the jobs that were submitted since then, newest first, but not the ``others``."""
        raise NotImplementedError

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections."""


@dataclass(frozen=True, slots=True)
class FileAccess:
    """The hosts of a provider's files that want a header. No other host gets it, and no redirect's target.

    ``hosts`` are names in lower case; ``*.`` as the first label is any number of labels.
    """

    hosts: Sequence[str]
    headers: Mapping[str, str] = field(repr=False)

    def headers_for(self, scheme: str, host: str, port: int) -> Mapping[str, str]:
        """Return the headers for a request that goes to this host: none unless over https on its own port."""
        if scheme != "https" or port != 443 or not any(_is_host(host, pattern) for pattern in self.hosts):
            return {}
        return self.headers

    def __post_init__(self) -> None:
        for name, value in self.headers.items():
            if not f"{name}{value}".isascii() or not f"{name}{value}".isprintable():
                raise ValueError("a header must be printable ASCII")


NO_FILES = FileAccess((), {})
"""For providers whose file hosts want no header."""


class DeliveryProof(ABC):
    """What proves a provider's deliveries; ``names`` are the headers that it needs."""

    names: Sequence[str]

    @abstractmethod
    def admit(self, headers: RawHeaders) -> Proof | None:
        """Judge a delivery by its headers, before its body is read.

        Return the proof where the headers alone give it, and ``None`` where the body is needed. Raise
        `AuthError` ``auth.refused`` where no body could make them a proof: missing, repeated or old ones.
        """

    def check(self, headers: RawHeaders, body: bytes) -> Proof | Awaitable[Proof]:
        """Prove the sender of a body which `admit` needs. All keys are compared, whatever the first gave.

        It is awaitable only where keys may have to be fetched. A wrong, old or foreign signature is the same
        `AuthError` ``auth.refused`` without a detail. Keys that cannot be had are ``auth.keys_unavailable``,
        which is a 503, so that the provider sends it again.
        """
        raise NotImplementedError

    def headers_for(self, body: bytes) -> Mapping[str, bytes] | None:  # noqa: ARG002 - those that can
        """Return headers that prove a body, by the first key; ``None`` where only the provider has that."""
        return None

    async def count_keys(self) -> int | None:
        """Return how many keys of a key set prove deliveries, read now; ``None`` without a key set.

        Raise `AuthError` ``auth.keys_unavailable`` with the cause where they cannot be read.
        """
        return None


class Provider(ABC):
    """One provider, as this installation's settings switch it on.

    Attributes:
        name: of the route, the job ids, the settings and the archive; it never changes.
        title: for people.
        bare_ids: whether jobs are known by the provider's own ids, without its name.
        fresh_urls: whether asking can give a URL that works once the first one's life has ended. Otherwise
            the provider is not asked then, and the job expires.
        files: which file hosts want a header.
        ref_header: carries a submitter's reference.
        url_setting, token_setting: the settings of ``api_url`` and ``token``.
        asking_remedy: what to do where it cannot be asked.
        api_url: the base of its API.
        token: of its API; without it the provider cannot be asked.
        url_lifetime: of URLs that state no end, and whose body states none.
    """

    name: str
    title: str
    url_setting: str
    token_setting: str
    bare_ids: ClassVar[bool] = False
    fresh_urls: bool = False
    ref_header: str | None = None
    files: FileAccess = NO_FILES
    asking_remedy = "Set it to your account's token."

    def __init__(
        self, proof: DeliveryProof, api_url: object, token: str | None, url_lifetime: timedelta
    ) -> None:
        self.proof = proof
        self.api_url = str(api_url)
        self.token = token
        self.url_lifetime = url_lifetime

    @property
    def has_token(self) -> bool:
        return self.token is not None

    @property
    def body_schema(self) -> Mapping[str, Any]:
        """The JSON Schema of a completion's body, for ``/openapi.json``."""
        return {"type": "object"}

    @abstractmethod
    def read(self, body: bytes) -> Reading:
        """Read a proved body. Raise `BodyError` for one that is not a job's; it is kept for an operator."""

    def knows_endpoint(self, endpoint: str) -> bool:  # noqa: ARG002 - most are asked without one
        """Return whether the provider can be asked about a job that was announced with this endpoint."""
        return True

    def redact(self, body: bytes) -> bytes:
        """Return a body without the secrets that it may echo, before it is kept."""
        return body

    def own_delivery(self, own_id: str, output: Output) -> OwnDelivery | None:  # noqa: ARG002 - those that can
        """Return the delivery of a job with this one output; ``None`` where only the provider can sign it."""
        return None

    @abstractmethod
    def open_client(self, calls: Calls) -> Client | None:
        """Return a new client; ``None`` where the provider cannot be asked, such as without a token."""

    # What follows is the same for all.

    def job_id(self, own_id: str, output: int = 1) -> str:
        first = own_id if self.bare_ids else f"{self.name}:{own_id}"
        return first if output == 1 else f"{first}~{output}"

    def completions(self, ending: Ending, now: int) -> list[tuple[Completion, Deadline]]:
        """Return the completions of an ending: one for each output, and one where it has none.

        Beside each stands when the life of its URL ends: as the body states, else the URL, else a lifetime
        after the job's end. An end in the future comes from a wrong clock, and must not lengthen a life.
        """
        since = now if ending.ended_at is None else min(now, ending.ended_at)
        found = []
        for number, output in enumerate(ending.outputs or (_NO_OUTPUT,), start=1):
            completion = Completion(
                self.job_id(ending.id, number),
                output.url,
                ending.source_url,
                output.width,
                output.height,
                ending.failure or output.failure,
                output.bytes,
                output.content_type,
            )
            life = self.url_lifetime
            end = deadline(output.url, since=since, now=now, lifetime=life, stated=output.ends_at)
            found.append((completion, end))
        return found


Providers = Mapping[str, Provider]
"""Those that are on, by name."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A provider that can be asked, and the client for it."""

    provider: Provider
    client: Client


def is_proved_by_headers(provider: Provider, headers: RawHeaders) -> bool:
    """Return whether a delivery's headers alone prove its sender."""
    try:
        return provider.proof.admit(headers) is not None
    except AuthError:
        return False


def _is_host(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
