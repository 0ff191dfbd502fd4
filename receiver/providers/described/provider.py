"""A provider that a description makes."""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from receiver.config import secrets_of, text_of
from receiver.core.completion import MAX_OUTPUTS, Failure, is_provider_id
from receiver.core.errors import BodyError, ConfigError, UnavailableError, UnknownJobError
from receiver.providers import bodies, json_paths, proofs
from receiver.providers.api import MAX_KEPT_BYTES, ApiClient, Call
from receiver.providers.base import (
    Calls,
    Client,
    Ending,
    FileAccess,
    Output,
    OwnDelivery,
    Provider,
    Reading,
    Report,
    Running,
    Setup,
)
from receiver.providers.described.description import ENDPOINT, Ask, Description
from receiver.providers.tables import UNITS

_ENDPOINT = re.compile(ENDPOINT)


class DescribedProvider(Provider):
    """A provider by description; ``own`` has the secrets that are settings.

    Raises:
        ConfigError: one line that names a secret which is not set, or cannot be used so.
    """

    asking_remedy = "Add the table to its description, if it has an API to ask."

    def __init__(
        self, description: Description, setup: Setup, own: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        known: dict[str, tuple[str, ...]] = dict(own or {})

        def secrets(name: str) -> tuple[str, ...]:
            if not known.get(name):
                known[name] = secrets_of(name, setup.environ)
            return known[name]

        def sent(name: str) -> str:
            (secret, *_) = secrets(name)
            if not re.fullmatch(r"[\x21-\x7e]+", secret):
                raise ConfigError(f"{name}: has a character that is no printable ASCII, or a blank")
            return secret

        ask, files = description.ask, description.files
        super().__init__(
            proofs.open_proof(description.proof, secrets, partial(text_of, environ=setup.environ), setup.now),
            "" if ask is None else ask.base,
            None if ask is None else sent(ask.secret),
            setup.config.url_lifetime_of(description.name, description.url_lifetime),
        )
        if files is not None:
            self.files = FileAccess(files.hosts, _filled(files.headers, sent(files.secret)))
        self.description, self.now = description, setup.now
        self.secrets = [text for texts in known.values() for text in texts if len(text) >= bodies.MIN_MASKED]
        self.name, self.title = description.name, description.title
        self.fresh_urls = ask is not None and ask.fresh_urls
        self.token_setting = f"[ask] of {self.name}" if ask is None else ask.secret
        self.url_setting = f"[ask] base of {self.name}"

    def read(self, body: bytes) -> Reading:
        return self.reading(bodies.decode_json(body), asked=False)

    def reading(self, document: Any, *, asked: bool) -> Reading:
        """Read the JSON of a delivery, or, with ``asked``, of an answer, which nothing is asked for again."""
        job = self.description.job
        identifier = json_paths.value(document, job.id)
        if job.numeric_id and isinstance(identifier, int) and not isinstance(identifier, bool):
            identifier = str(identifier)
        own, state = bodies.own_id(identifier), json_paths.value(document, job.state)
        if not isinstance(state, str):
            bodies.refuse("its state is missing")
        ended_at = bodies.moment(json_paths.value(document, job.ended_at), self.now())
        if state in job.failed:
            words = filter(None, (bodies.short(state), bodies.short(json_paths.value(document, job.error))))
            return Ending(own, (), Failure("provider.job_failed", ": ".join(words)), ended_at)
        if state not in job.done:
            if job.running and state not in job.running:
                bodies.refuse(f"its state is {bodies.word(state)}, which is unknown")
            return Running(own, bodies.word(state))
        outputs = self._outputs(document, self.now() if ended_at is None else ended_at)
        if not outputs and (asked or self.token is None):
            detail = "The provider says that the job ended well, and names no file."
            return Ending(own, (), Failure("provider.no_output", detail), ended_at)
        return Ending(own, outputs, None, ended_at)

    def _outputs(self, document: Any, since: int) -> Sequence[Output]:
        at = self.description.outputs
        found = json_paths.find(document, at.each)[: MAX_OUTPUTS + 1]
        return bodies.bounded(
            tuple(
                bodies.output_of(
                    json_paths.value(each, at.url) if at.url else each,
                    f"output {number}",
                    width=json_paths.value(each, at.width),
                    height=json_paths.value(each, at.height),
                    size=json_paths.value(each, at.bytes),
                    content_type=json_paths.value(each, at.content_type),
                    ends_at=bodies.moment(json_paths.value(each, at.ends_at), since, UNITS[at.time_unit]),
                )
                for number, each in enumerate(found, start=1)
            )
        )

    def redact(self, body: bytes) -> bytes:
        body = bodies.mask(body, self.secrets)
        if not self.description.redact:
            return body
        try:
            document = bodies.decode_json(body)
        except BodyError:
            return body  # nothing stands at a path of what is no JSON
        for path in self.description.redact:
            json_paths.replace(document, path, bodies.MASK.decode())
        return json.dumps(document).encode()

    def own_delivery(self, own_id: str, output: Output) -> OwnDelivery | None:
        job, outputs = self.description.job, self.description.outputs
        url = outputs.each[0] + (outputs.url[0] if outputs.url else ())
        document = json_paths.put(None, job.id[0], own_id)
        document = json_paths.put(document, job.state[0], job.done[0])
        document = json_paths.put(document, url, output.url or "")
        body = json.dumps(document).encode()
        headers = self.proof.headers_for(body)
        return None if headers is None else OwnDelivery(headers, body)

    def open_client(self, calls: Calls) -> Client | None:
        ask, token = self.description.ask, self.token
        return None if ask is None or token is None else DescribedClient(self, ask, token, calls)


class DescribedClient(ApiClient):
    """Asks as the description says."""

    def __init__(self, provider: DescribedProvider, ask: Ask, token: str, calls: Calls) -> None:
        wait, own = calls.limit(ask.rate), calls.before_attempt

        async def before_attempt() -> None:
            await wait()
            if own is not None:
                await own()

        calls = replace(calls, before_attempt=before_attempt)
        super().__init__(provider.api_url, token, calls, headers=_filled(ask.headers, token))
        self.url_setting = provider.url_setting
        self._provider = provider
        self._ask = ask

    async def get(self, job_id: str, endpoint: str | None = None) -> Report:
        if not is_provider_id(job_id):
            raise UnknownJobError("This can be no job's id.")
        document = await self._call(Call(self._path(job_id, endpoint), about_a_job=True))
        try:
            reading = self._provider.reading(document, asked=True)
        except BodyError as error:
            raise UnavailableError(f"The provider's answer cannot be read. {error.detail}") from None
        if reading.id != job_id:
            raise UnavailableError("The provider answers about another job.")
        state = json_paths.value(document, self._provider.description.job.state)
        body = self._provider.redact(json.dumps(document).encode())
        return Report(
            job_id,
            bodies.word(state),
            reading if isinstance(reading, Ending) else None,
            body=body if len(body) <= MAX_KEPT_BYTES else b"{}",
        )

    async def probe(self) -> None:
        if self._ask.probe is not None:
            await self._call(Call(self._ask.probe))
            return
        with contextlib.suppress(UnknownJobError):  # it has judged the token before it looked for the job
            await self._call(Call(self._path("probe", None), about_a_job=True))

    def _path(self, job_id: str, endpoint: str | None) -> str:
        own = self._ask.endpoint or ""
        given = endpoint if endpoint and _ENDPOINT.fullmatch(endpoint) else own
        return self._ask.path.replace("{endpoint}", given).replace("{id}", job_id)


def _filled(headers: Mapping[str, str], secret: str) -> dict[str, str]:
    return {name: value.replace("{secret}", secret) for name, value in headers.items()}
