"""Asks fal.ai's queue about requests. It has no list of them."""

import contextlib

from receiver.core.completion import is_provider_id
from receiver.core.errors import InvalidRequestError, UnaskableError, UnavailableError, UnknownJobError
from receiver.providers.api import MAX_JOB_BYTES, ApiClient, Call, kept_body, read_answer
from receiver.providers.base import Ending, Report
from receiver.providers.bodies import word
from receiver.providers.fal import results


class FalClient(ApiClient):
    scheme = "Key"
    url_setting = "FAL_API_URL"

    async def get(self, job_id: str, endpoint: str | None = None) -> Report:
        if not is_provider_id(job_id):
            raise UnknownJobError("This can be no job's id.")
        app = results.app_of(endpoint)
        if app is None:
            raise UnaskableError("The model's path is not known: announce the job with its endpoint.")
        path = f"/{app}/requests/{job_id}"
        answer = await self._call(Call(f"{path}/status", about_a_job=True))
        if answer.get("request_id", job_id) != job_id:
            raise UnavailableError("The provider's answer is about another job.")
        status = word(answer.get("status"))
        if status != "COMPLETED":
            return Report(job_id, status, body=kept_body(answer))
        if answer.get("error"):
            ended = Ending(job_id, failure=results.failure(answer["error"]), endpoint=endpoint)
            return Report(job_id, status, ended, body=kept_body(answer))
        try:
            payload = await self._call(Call(path, max_bytes=MAX_JOB_BYTES, about_a_job=True))
        except InvalidRequestError as error:  # of a completed request it is the model's own answer
            return Report(job_id, status, Ending(job_id, failure=results.failure(error.detail)))
        ended = read_answer(lambda found: results.ending(job_id, found, endpoint), payload)
        return Report(job_id, status, ended, body=kept_body(payload))

    async def probe(self) -> None:
        path = "/fal-ai/esrgan/requests/00000000-0000-0000-0000-000000000000/status"
        with contextlib.suppress(UnknownJobError):  # the key was judged before the request was looked for
            await self._call(Call(path, about_a_job=True))
