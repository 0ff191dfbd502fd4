"""Ximilar's jobs in their JSON forms."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from receiver.sandbox.faults import Fault, JobFault
from receiver.sandbox.jobs import Job, Order, State, timestamp


class Status(StrEnum):
    """A job's status. The page documents CREATED, PROCESSING and DONE; the others are known second-hand."""

    CREATED = "CREATED"
    PROCESSING = "PROCESSING"
    RETRY = "RETRY"
    DONE = "DONE"
    FAILED = "FAILED"
    API_LIMIT_EXCEEDED = "API_LIMIT_EXCEEDED"
    NOT_SUPPORTED = "NOT_SUPPORTED"


_FINAL_STATUS: Mapping[Fault, Status] = {
    JobFault.FAILED: Status.FAILED,
    JobFault.FAILED_TOLD: Status.FAILED,
    JobFault.LIMIT: Status.API_LIMIT_EXCEEDED,
    JobFault.UNSUPPORTED: Status.NOT_SUPPORTED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class XimilarOrder(Order):
    """A submit with what comes back in the answers."""

    workspace: str
    record_id: str | None


XimilarJob = Job[XimilarOrder]


def status_of(job: XimilarJob) -> Status:
    """Return a job's status. One whose source cannot be used is DONE all the same, with a bad record."""
    if job.state is State.WAITING:
        return Status.CREATED
    if job.state is State.WORKING:
        return Status.RETRY if JobFault.RETRY in job.plan else Status.PROCESSING
    return next((_FINAL_STATUS[fault] for fault in job.plan & _FINAL_STATUS.keys()), Status.DONE)


def row(job: XimilarJob) -> dict[str, Any]:
    return {
        "id": job.id,
        "status": status_of(job),
        "type": "upscaler",
        "created": timestamp(job.created),
        "workspace": job.order.workspace,
    }


def submitted(job: XimilarJob, request: Any) -> dict[str, Any]:
    """Return the answer to the submit."""
    return {
        "id": job.id,
        "request": request,
        "type": "upscaler",
        "status": Status.CREATED,
        "created": timestamp(job.created),
        "workspace": job.order.workspace,
    }


def full(job: XimilarJob, request: Any) -> dict[str, Any]:
    """Return the whole job."""
    answer: dict[str, Any] = {
        "id": job.id,
        "created": timestamp(job.created),
        "modified": timestamp(job.modified),
        "request": request,
    }
    status = status_of(job)
    if status is Status.DONE:
        answer["response"] = {"records": [_record(job, announced=False)]}
    return answer | {"type": "upscaler", "status": status, "workspace": job.order.workspace}


def completion(job: XimilarJob) -> dict[str, Any] | None:
    """Return the body of the completion, whose record has an ``_id``, or None for a silent end."""
    status = status_of(job)
    answer: dict[str, Any] = {"status": status, "id": job.id, "type": "upscaler"}
    if status is Status.DONE:
        record_id = job.order.record_id or str(uuid.uuid5(uuid.UUID(job.id), "record"))
        answer["response"] = {"records": [{"_id": record_id} | _record(job, announced=True)]}
    elif JobFault.FAILED_TOLD not in job.plan:
        return None
    return answer


def _record(job: XimilarJob, *, announced: bool) -> dict[str, Any]:
    """Return the one record. The request_id of its status differs from the job's id."""
    record: dict[str, Any] = {}
    if job.order.source is not None:
        record["_url"] = job.order.source
    for output in job.outputs:
        record |= {"_width": output.file.width, "_height": output.file.height}
    code = 200 if job.error is None else 500 if job.outputs else 400
    request_id = str(uuid.uuid5(uuid.UUID(job.id), "request"))
    record["_status"] = {"code": code, "text": job.error or "OK", "request_id": request_id}
    for output in job.outputs if code == 200 else ():
        record |= {
            "_upscaled_width": output.file.upscaled_width,
            "_upscaled_height": output.file.upscaled_height,
            "_upscaled_image_url": output.announced_url if announced else output.url,
        }
    return record
