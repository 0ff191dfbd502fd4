"""The webhook: caps the body, checks the sender, parses, records, answers. It knows nothing of the worker.

The cheapest step comes first: nothing is kept beyond the cap, and nothing is parsed without proof. The 200
leaves only after the commit.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from receiver.core import url_expiry
from receiver.core.clock import Clock
from receiver.core.errors import AuthError, BodyError, LedgerError
from receiver.core.failpoints import Failpoint, no_failpoint
from receiver.core.headers import RawHeaders
from receiver.core.instrumentation import NO_INSTRUMENTATION, Instrumentation, Step
from receiver.ledger import OTHER_URL, OTHER_URLS, Delivery, Ledger
from receiver.providers.base import Proof
from receiver.providers.ximilar import completions
from receiver.providers.ximilar.authentication import Authenticator
from receiver.web.body import read_body
from receiver.web.direct import json_response
from receiver.web.middleware import SECURITY_HEADERS
from receiver.web.problem import problem
from receiver.web.refusals import RefusalCounter

BODY_SECONDS = 20
"""How long a sender may take to send a body of at most a few hundred KiB."""

ReadBody = Callable[[bool], Awaitable[bytes]]
"""Reads a request's body within bounds, and keeps it where the argument says so."""

log = structlog.get_logger("receiver.intake")


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """The endpoint of the webhook, with the life of URLs that state none.

    With ``confirm``, a delivery counts only once the provider has confirmed it.
    """

    ledger: Ledger
    authenticator: Authenticator
    max_bytes: int
    url_lifetime: timedelta
    now: Clock
    refusals: RefusalCounter
    confirm: bool = False
    instrumentation: Instrumentation = NO_INSTRUMENTATION
    failpoint: Failpoint = no_failpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one delivery as an ASGI application."""
        request = Request(scope, receive)
        content = await self.answer(
            scope["headers"],
            lambda keep: read_body(request, self.max_bytes, BODY_SECONDS, keep=keep),
        )
        answer = content if isinstance(content, Response) else json_response(content)
        await answer(scope, receive, send)

    async def answer(self, headers: RawHeaders, body: bytes | ReadBody) -> bytes | Response:
        """Return the JSON of a 200, or a refusal. docs/reference/http-api.md lists the answers.

        The body is there already, or is to be read.
        """
        with self.instrumentation.step("delivery") as step:
            answer = await self._answer(headers, body, step)
        if isinstance(answer, Response):
            answer.raw_headers += SECURITY_HEADERS
        return answer

    async def _answer(self, headers: RawHeaders, body: bytes | ReadBody, step: Step) -> bytes | Response:
        try:
            try:
                proof = self.authenticator.check(headers)
            except AuthError:  # answered once the body has been read
                proof = None
            if not isinstance(body, bytes):
                body = await body(proof is not None)
            elif len(body) > self.max_bytes:
                raise BodyError("body.too_large")  # noqa: TRY301 - answered below, like all others
            if proof is None:
                # The answer is the same for every cause.
                raise AuthError("auth.refused")  # noqa: TRY301 - answered below, like a ticket that is not its job's
            return await self._record(headers, body, proof, step)
        except (AuthError, BodyError) as error:
            step.reason = error.reason
            if step.outcome != "unread":
                self.refusals.count_and_log(error.reason)
            elif times := self.refusals.count_to_log(error.reason):
                log.warning(
                    "delivery is no completion", reason=error.reason, detail=error.detail, times=times
                )
            return problem(error.reason, error.detail if isinstance(error, BodyError) else None)
        except LedgerError as error:
            step.reason = error.reason
            if times := self.refusals.count_to_log(error.reason):
                log.error("delivery not recorded", reason=error.reason, detail=error.detail, times=times)  # noqa: TRY400 - not a bug
            return problem(error.reason)

    async def _record(self, headers: RawHeaders, body: bytes, proof: Proof, step: Step) -> bytes:
        try:
            _check_type(headers)
            completion = completions.parse(body)
        except BodyError as error:
            await self.ledger.record_unread(error, self.authenticator.redact(body))
            step.outcome = "unread"
            raise
        if self.confirm:
            # A failure is as cheap to forge as an image: the job waits until the provider confirms it.
            completion = replace(completion, source_url=None, failure=None)
        if completion.failure is not None:
            detail = self.authenticator.redact(completion.failure.detail.encode()).decode("utf-8", "replace")
            completion = replace(completion, failure=replace(completion.failure, detail=detail))
        # Where the provider must confirm the delivery, the end that counts is that of the confirmed URL.
        url, now = None if self.confirm else completion.image_url, self.now()
        deadline = url_expiry.deadline(url, since=now, now=now, lifetime=self.url_lifetime)
        delivery = Delivery(
            completion,
            self.authenticator.redact(body),
            deadline.at,
            proof.ref,
            proof.ticket,
            mark=proof.mark,
            ref_dropped=proof.ref_dropped,
        )
        with self.instrumentation.step("record", completion.id) as recording:
            recorded = await self.ledger.record(delivery)
            recording.received_at = recorded.received_at
        self.failpoint("recorded")
        step.job, step.received_at = completion.id, recorded.received_at
        step.outcome = "duplicate" if recorded.duplicate else "recorded"
        reason = completion.failure.reason if completion.failure else None
        if OTHER_URL in recorded.events or OTHER_URLS in recorded.events:
            reason = "ledger.other_url"
        log.info(
            "delivery",
            job=completion.id,
            state=recorded.state,
            duplicate=recorded.duplicate,
            noted=recorded.events,
            **({"reason": reason} if reason else {}),
            **({"end_not_believed": deadline.disbelieved.isoformat()} if deadline.disbelieved else {}),
        )
        # A job's id and a state need no escape in JSON.
        duplicate = "true" if recorded.duplicate else "false"
        return f'{{"id":"{completion.id}","state":"{recorded.state}","duplicate":{duplicate}}}'.encode()


def _check_type(headers: RawHeaders) -> None:
    """Refuse a declared type that is not JSON. A body without a type is taken for JSON."""
    for name, value in headers:
        if name == b"content-type":  # the first counts
            declared = value.partition(b";")[0].strip().lower()
            if declared and declared != b"application/json" and not declared.endswith(b"+json"):
                raise BodyError("body.unsupported_type")
            return
