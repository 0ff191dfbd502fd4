"""The webhook: caps the body, checks the sender, parses, records, answers. It knows nothing of the worker.

The cheapest step comes first: nothing is kept beyond the cap, and nothing is parsed without proof. The 200
leaves only after the commit.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from receiver.core.clock import Clock
from receiver.core.completion import Completion
from receiver.core.errors import AuthError, BodyError, LedgerError
from receiver.core.failpoints import Failpoint, no_failpoint
from receiver.core.headers import RawHeaders
from receiver.core.instrumentation import NO_INSTRUMENTATION, Instrumentation, Step
from receiver.core.url_expiry import Deadline
from receiver.ledger import Delivery, Ledger
from receiver.ledger.commands.deliveries import OTHER_URL, OTHER_URLS
from receiver.providers.base import Ending, Proof, Provider, Running
from receiver.web.body import BODY_SECONDS, read_body
from receiver.web.direct import json_response
from receiver.web.middleware import SECURITY_HEADERS
from receiver.web.problem import problem
from receiver.web.refusals import RefusalCounter

ReadBody = Callable[[bool], Awaitable[bytes]]
"""Reads a request's body within bounds, and keeps it where the argument says so."""

log = structlog.get_logger("receiver.intake")


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """The endpoint of one provider's webhook.

    With ``confirm``, a delivery counts only once the provider has confirmed it.
    """

    ledger: Ledger
    provider: Provider
    max_bytes: int
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
            step.provider = self.provider.name
            answer = await self._answer(headers, body, step)
        if isinstance(answer, Response):
            answer.raw_headers += SECURITY_HEADERS
        return answer

    async def _answer(self, headers: RawHeaders, body: bytes | ReadBody, step: Step) -> bytes | Response:
        try:
            body, proof = await self._proved(headers, body)
            return await self._record(headers, body, proof, step)
        except (AuthError, BodyError) as error:
            step.reason = error.reason
            times = self.refusals.count_to_log(error.reason)
            if times and step.outcome == "unread":
                log.warning(
                    "delivery is no completion", reason=error.reason, detail=error.detail, times=times
                )
            elif times:
                log.warning("delivery refused", reason=error.reason, times=times)
            return problem(error.reason, error.detail if isinstance(error, BodyError) else None)
        except LedgerError as error:
            step.reason = error.reason
            if times := self.refusals.count_to_log(error.reason):
                log.error("delivery not recorded", reason=error.reason, detail=error.detail, times=times)  # noqa: TRY400 - not a bug
            return problem(error.reason)

    async def _proved(self, headers: RawHeaders, body: bytes | ReadBody) -> tuple[bytes, Proof]:
        """Return the whole body, and what proves its sender. What no body can prove is not kept."""
        proof, is_admitted = None, True
        try:
            proof = self.provider.proof.admit(headers)
        except AuthError:  # answered once the body has been read, and alike for every cause
            is_admitted = False
        if not isinstance(body, bytes):
            body = await body(is_admitted)
        elif len(body) > self.max_bytes:
            raise BodyError("body.too_large")
        if not is_admitted:
            raise AuthError("auth.refused")
        if proof is None:
            proving = self.provider.proof.check(headers, body)
            proof = proving if isinstance(proving, Proof) else await proving
        return body, proof

    async def _record(self, headers: RawHeaders, body: bytes, proof: Proof, step: Step) -> bytes:
        provider = self.provider
        try:
            _check_type(headers)
            reading = provider.read(body)
        except BodyError as error:
            error.detail = self._redacted(error.detail)
            await self.ledger.record_unread(error, provider.redact(body), provider.name)
            step.outcome = "unread"
            raise
        if isinstance(reading, Running):
            step.outcome = "ignored"
            return f'{{"id":"{provider.job_id(reading.id)}","state":null,"ignored":true}}'.encode()
        completions = self._completions(reading)
        kept = provider.redact(body)
        # The body is kept with the first output alone: of a few hundred it would be as many copies.
        deliveries = [
            Delivery(
                completion,
                b"" if at else kept,
                deadline.at,
                proof.ref,
                proof.ticket,
                endpoint=reading.endpoint,
                mark=proof.mark,
                ref_dropped=proof.ref_dropped,
            )
            for at, (completion, deadline) in enumerate(completions)
        ]
        completion, deadline = completions[0]
        failure = next((it.failure for it, _ in completions if it.failure), None)
        with self.instrumentation.step("record", completion.id) as recording:
            if len(deliveries) == 1:
                recorded = [await self.ledger.record(deliveries[0])]
            else:
                recorded = await self.ledger.record_together(deliveries)
            first = recorded[0]
            recording.received_at = first.received_at
        self.failpoint("recorded")
        is_duplicate = all(it.duplicate for it in recorded)
        step.job, step.received_at = completion.id, first.received_at
        step.outcome = "duplicate" if is_duplicate else "recorded"
        reason = failure.reason if failure else None
        if any(OTHER_URL in it.events or OTHER_URLS in it.events for it in recorded):
            reason = "ledger.other_url"
        log.info(
            "delivery",
            job=completion.id,
            state=first.state,
            duplicate=is_duplicate,
            noted=first.events,
            **({"outputs": len(recorded)} if len(recorded) > 1 else {}),
            **({"reason": reason} if reason else {}),
            **({"end_not_believed": deadline.disbelieved.isoformat()} if deadline.disbelieved else {}),
        )
        # A job's id and a state need no escape in JSON.
        duplicate = "true" if is_duplicate else "false"
        return f'{{"id":"{completion.id}","state":"{first.state}","duplicate":{duplicate}}}'.encode()

    def _completions(self, ending: Ending) -> list[tuple[Completion, Deadline]]:
        """Return what counts of an ending, without this installation's secrets in its words."""
        provider, now = self.provider, self.now()
        if self.confirm:
            # A failure is as cheap to forge as an image: the job waits until the provider confirms it. The
            # end that counts is that of the confirmed URL.
            ((_, deadline),) = provider.completions(Ending(ending.id), now)
            hints = provider.completions(Ending(ending.id, ending.outputs), now)
            return [(replace(hint, failure=None), deadline) for hint, _ in hints]
        if ending.failure is not None:
            detail = self._redacted(ending.failure.detail)
            ending = replace(ending, failure=replace(ending.failure, detail=detail))
        return provider.completions(ending, now)

    def _redacted(self, text: str) -> str:
        return self.provider.redact(text.encode()).decode("utf-8", "replace")


def _check_type(headers: RawHeaders) -> None:
    """Refuse a declared type that is not JSON. A body without a type is taken for JSON."""
    for name, value in headers:
        if name == b"content-type":  # the first counts
            declared = value.partition(b";")[0].strip().lower()
            if declared and declared != b"application/json" and not declared.endswith(b"+json"):
                raise BodyError("body.unsupported_type")
            return
