"""The routes of the contenders, in an environment of their own: each hands a delivery over durably.

`CONTENDER` says which one, and `DATABASE` where.
"""

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

PATH = "/webhooks/ximilar"

HandOver = Callable[[dict[str, Any]], Awaitable[object]]


@asynccontextmanager
async def dbos(database: str) -> AsyncIterator[HandOver]:
    """A workflow in a queue. No worker takes it, so that its row is all that is paid for."""
    from dbos import DBOS, DBOSClient, DBOSConfig

    # Only an application makes the tables.
    DBOS(config=DBOSConfig(name="bench", system_database_url=database, run_admin_server=False))
    DBOS.launch()
    DBOS.destroy()
    client = DBOSClient(system_database_url=database)

    async def hand_over(document: dict[str, Any]) -> object:
        return await client.enqueue_async(
            {"workflow_name": "fetch", "queue_name": "webhooks", "workflow_id": document["id"]}, document
        )

    yield hand_over


@asynccontextmanager
async def procrastinate(database: str) -> AsyncIterator[HandOver]:
    """A job of a task. No worker takes it."""
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=database, min_size=4, max_size=20))

    @app.task(name="fetch")
    async def fetch(document: dict[str, Any]) -> None:
        raise NotImplementedError(document)

    async def hand_over(document: dict[str, Any]) -> object:
        return await fetch.defer_async(document=document)

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        yield hand_over


CONTENDERS = {"dbos": dbos, "procrastinate": procrastinate}


def application() -> Starlette:
    """Return the route of the contender."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with CONTENDERS[os.environ["CONTENDER"]](os.environ["DATABASE"]) as hand_over:
            app.state.hand_over = hand_over
            yield

    async def receive(request: Request) -> JSONResponse:
        document = json.loads(await request.body())
        await request.app.state.hand_over(document)
        return JSONResponse({"id": document["id"], "state": "received", "duplicate": False})

    return Starlette(routes=[Route(PATH, receive, methods=["POST"])], lifespan=lifespan)
