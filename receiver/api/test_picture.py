"""``GET`` of a webhook: the picture of a test delivery, for its ticket; for everybody else a 405."""

from collections.abc import Iterable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.core.clock import Clock
from receiver.ledger import Ledger
from receiver.operations.delivery_trial import is_ticket, picture

HEADERS = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}


def picture_routes(paths: Iterable[str], ledger: Ledger, now: Clock) -> list[Route]:
    """Return the routes of the picture, beside those that take deliveries."""

    async def answer(request: Request) -> Response:
        ticket = request.query_params.get("signature")
        if ticket is None or not await is_ticket(ledger, ticket, now()):
            raise HTTPException(405, headers={"Allow": "POST"})
        return Response(picture(), media_type="image/jpeg", headers=HEADERS)

    return [Route(path, answer, methods=["GET"]) for path in paths]
