"""What a real socket meets at the door: a server in the test's own process, with a short patience."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from receiver.core.headers import RawHeaders
from receiver.web.clients import UnfinishedBodies
from receiver.web.direct import Direct
from receiver.web.protocol import AnswerCancelled, CloseUnread, LimitedProtocol

GET = b"GET / HTTP/1.1\r\nHost: receiver\r\n\r\n"
SLOW = b"POST / HTTP/1.1\r\nHost: receiver\r\nContent-Length: 1\r\n\r\n"
NEVER = 600.0
WITHIN = 30


async def slow(request: Request) -> Response:
    """Answers once its body is whole, or at once where it has none."""
    return PlainTextResponse(await request.body() or "empty")


async def large(request: Request) -> Response:
    """Answers with so many bytes."""
    return PlainTextResponse(bytes(int(request.path_params["size"])))


class Echo:
    """Begins its answer before the body comes, which it then answers with."""

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        message = await receive()
        await send({"type": "http.response.body", "body": message["body"]})


async def refused(request: Request) -> Response:
    """Answers without a look at the body."""
    return PlainTextResponse("refused", 413)


@asynccontextmanager
async def door(
    *,
    head: float = NEVER,
    idle: float = NEVER,
    take: float = NEVER,
    connections: int | None = None,
    lost: asyncio.Event | None = None,
    read_on: tuple[int, float, float] = (0, 0, 0),
    direct: Direct | None = None,
    rest: float = NEVER,
    waits: asyncio.Event | None = None,
) -> AsyncIterator[int]:
    """A server with these patiences; gives its port, and sets ``lost`` when a connection is gone.

    ``read_on`` is how many bytes are read behind an early answer, for how many seconds, and with which pause.
    ``direct`` answers a POST to ``/`` that comes in one piece, or whose rest comes within ``rest`` seconds;
    ``waits`` is set when the application gets another.
    """
    past_asgi = {} if direct is None else {b"/": direct}

    class Protocol(LimitedProtocol):
        direct = past_asgi
        unfinished = UnfinishedBodies(lambda headers: (b"proof", b"1") in headers)
        head_seconds = head
        keep_alive_seconds = idle
        write_seconds = take
        rest_seconds = rest

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if lost is not None:
                lost.set()

    async def entered(request: Request) -> Response:
        if waits is not None:
            waits.set()
        return await slow(request)

    app = Starlette(
        routes=[
            Route("/", entered, methods=["GET", "POST"]),
            Route("/large/{size}", large),
            Route("/refused", refused, methods=["POST"]),
            Route("/echo", Echo(), methods=["POST"]),
        ]
    )
    config = uvicorn.Config(
        AnswerCancelled(CloseUnread(app, max_bytes=read_on[0], max_seconds=read_on[1], max_pause=read_on[2])),
        http=Protocol,
        lifespan="off",
        log_config=None,
        timeout_keep_alive=600,
        timeout_graceful_shutdown=0,
        limit_concurrency=connections,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
        )  # a kernel that holds little for a peer
        await server.startup([listener])
        try:
            yield listener.getsockname()[1]
        finally:
            await server.shutdown([listener])


async def received(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send, and let the server, which is in the same loop, read it apart from what follows."""
    writer.write(data)
    for _ in range(3):
        await asyncio.sleep(0)


async def end_of(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.read(), WITHIN)


@pytest.mark.parametrize("sent", [b"", b"\r\n", GET[:10], GET[:-2]], ids=["nothing", "CRLF", "part", "most"])
async def test_a_connection_that_brings_no_head_is_closed(sent: bytes) -> None:
    async with door(head=0.05) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert await end_of(reader) == b""
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"\r\n", GET[:10]], ids=["nothing", "CRLF", "part"])
async def test_a_connection_that_brings_no_next_head_is_closed_behind_its_answer(sent: bytes) -> None:
    async with door(idle=0.05) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET + sent)
        assert (await end_of(reader)).endswith(b"empty")
        writer.close()


async def test_requests_one_behind_the_other_and_at_once_are_all_answered() -> None:
    async with door(head=0.05) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET * 3)
        for _ in range(3):
            await asyncio.wait_for(reader.readuntil(b"empty"), WITHIN)
        writer.write(GET)
        await asyncio.wait_for(reader.readuntil(b"empty"), WITHIN)
        writer.close()


async def test_a_body_may_take_longer_than_a_head() -> None:
    async with door(head=0.05, idle=0.05) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: r\r\nContent-Length: 4\r\n\r\nbo")
        # Another connection's whole patience passes meanwhile.
        other, silent = await asyncio.open_connection("127.0.0.1", port)
        assert await end_of(other) == b""
        silent.close()
        writer.write(b"dy")
        assert (await end_of(reader)).endswith(b"body")
        writer.close()


async def test_a_head_does_not_wait_for_a_body_that_comes_later() -> None:
    async with door() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /echo HTTP/1.1\r\nHost: r\r\nContent-Length: 4\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WITHIN)
        assert head.startswith(b"HTTP/1.1 200")
        writer.write(b"body")
        assert await end_of(reader) == b"4\r\nbody\r\n0\r\n\r\n"
        writer.close()


async def test_an_early_answer_to_a_body_that_is_whole_leaves_the_connection_open() -> None:
    async with door() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(announced(2) + b"{}")
        assert b"connection: close" not in await asyncio.wait_for(reader.readuntil(b"refused"), WITHIN)
        writer.write(GET)
        assert (await asyncio.wait_for(reader.readuntil(b"empty"), WITHIN)).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_silent_connections_make_room_for_those_who_speak() -> None:
    async with door(connections=3) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        served = await asyncio.open_connection("127.0.0.1", port)
        served[1].write(GET)
        assert (await served[0].readuntil(b"empty")).startswith(b"HTTP/1.1 200")
        assert await end_of(silent[0][0]) == b""  # the one that was silent the longest
        again = await asyncio.open_connection("127.0.0.1", port)
        again[1].write(GET)
        assert (await again[0].readuntil(b"empty")).startswith(b"HTTP/1.1 200")
        assert await end_of(silent[1][0]) == b""
        served[1].write(GET)
        assert (await served[0].readuntil(b"empty")).startswith(b"HTTP/1.1 200")
        for _, writer in (*silent, served, again):
            writer.close()


async def test_of_one_address_half_of_the_connections_may_be_idle_and_nobody_elses_is_ended() -> None:
    async with door(connections=8) as port:

        async def connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))

        other = await connect("127.0.0.2")
        many = [await connect("127.0.0.1") for _ in range(6)]
        assert [await end_of(reader) for reader, _ in many[:2]] == [b"", b""]
        for reader, writer in (other, *many[2:]):
            writer.write(GET)
            assert (await reader.readuntil(b"empty")).startswith(b"HTTP/1.1 200")
        for _, writer in (other, *many):
            writer.close()


async def test_unproved_bodies_make_room_before_a_connection_that_was_just_opened() -> None:
    """However many addresses they come from, and however fast new ones are opened."""
    async with door(connections=4) as port:
        slow_ones = []
        for address in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
            writer.write(SLOW)
            slow_ones.append((reader, writer))
        fresh = await asyncio.open_connection("127.0.0.1", port)
        assert await end_of(slow_ones[0][0]) == b""
        newer = await asyncio.open_connection("127.0.0.1", port)
        assert await end_of(slow_ones[1][0]) == b""
        for reader, writer in (fresh, newer):
            writer.write(GET)
            assert (await reader.readuntil(b"empty")).startswith(b"HTTP/1.1 200")
        for _, writer in (*slow_ones, fresh, newer):
            writer.close()


async def test_a_proved_sender_is_served_beside_as_many_slow_ones_as_there_may_be_connections() -> None:
    proved = GET.replace(b"Host", b"Proof: 1\r\nHost")
    async with door(connections=8) as port:
        slow_ones = []
        for number in range(8):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, local_addr=(f"127.0.0.{2 + number}", 0)
            )
            writer.write(SLOW.replace(b"Host", b"Proof: 1\r\nHost"))
            slow_ones.append((reader, writer))
        for head, status in ((proved, b"200"), (GET, b"503")):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head)
            assert (await asyncio.wait_for(reader.readline(), WITHIN)).split()[1] == status
            writer.close()
        for _, writer in slow_ones:
            writer.close()


@pytest.mark.parametrize(
    ("size", "take", "idle"),
    [(8_000_000, 0.05, NEVER), (60_000, NEVER, 0.05)],
    ids=["more-is-to-be-sent", "the-next-head-is-awaited"],
)
async def test_a_peer_that_does_not_take_its_answer_is_not_waited_for(
    size: int, take: float, idle: float
) -> None:
    lost = asyncio.Event()
    async with door(lost=lost, take=take, idle=idle) as port:
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.connect(("127.0.0.1", port))
            peer.sendall(b"GET /large/%d HTTP/1.1\r\nHost: r\r\n\r\n" % size)
            await asyncio.wait_for(lost.wait(), WITHIN)


async def test_a_slow_peer_that_takes_its_answer_has_the_time_that_it_needs() -> None:
    async with door(take=0.3) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        writer.write(b"GET /large/8000000 HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n")
        taken = 0
        while came := await asyncio.wait_for(reader.read(4096), WITHIN):
            taken += len(came)
        assert taken > 8_000_000
        writer.close()


# Answers before the body is whole

BLOCK = b"x" * 65536
REFUSED = b"POST /refused HTTP/1.1\r\nHost: r\r\n"
CHUNKED = REFUSED + b"Transfer-Encoding: chunked\r\n\r\n"


def announced(size: int, more: bytes = b"") -> bytes:
    return REFUSED + b"%sContent-Length: %d\r\n\r\n" % (more, size)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_the_rest_of_a_body_is_read_behind_an_early_answer(*, chunked: bool) -> None:
    async with door(read_on=(100 * len(BLOCK), NEVER, NEVER)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CHUNKED if chunked else announced(50 * len(BLOCK)))
        answer = await asyncio.wait_for(reader.readuntil(b"refused"), WITHIN)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in answer
        for _ in range(50):
            writer.write(chunk(BLOCK) if chunked else BLOCK)
            await writer.drain()
        if chunked:
            writer.write(b"0\r\n\r\n")
        assert await end_of(reader) == b""  # an end, and no reset
        writer.close()


@pytest.mark.parametrize(
    "read_on",
    [(len(BLOCK), NEVER, NEVER), (2**40, 0.05, NEVER), (2**40, NEVER, 0.05)],
    ids=["bytes", "seconds", "pause"],
)
async def test_an_endless_body_is_read_up_to_the_bound(read_on: tuple[int, float, float]) -> None:
    async with door(read_on=read_on) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(announced(2**40) + BLOCK)
        assert (await end_of(reader)).endswith(b"refused")
        writer.close()


async def test_a_sender_that_expects_an_answer_is_not_asked_for_its_body() -> None:
    async with door(read_on=(2**40, NEVER, NEVER)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(announced(9, b"Expect: 100-continue\r\n"))
        answer = await asyncio.wait_for(reader.readuntil(b"refused"), WITHIN)
        assert answer.startswith(b"HTTP/1.1 413")
        writer.close()


async def test_a_sender_that_leaves_ends_the_reading() -> None:
    lost = asyncio.Event()
    async with door(read_on=(2**40, NEVER, NEVER), lost=lost) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(announced(2**40) + BLOCK)
        await writer.drain()
        writer.close()
        await asyncio.wait_for(lost.wait(), WITHIN)


async def test_a_stop_ends_the_reading() -> None:
    async with door(read_on=(2**40, NEVER, NEVER)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(announced(2**40) + BLOCK)
        await asyncio.wait_for(reader.readuntil(b"refused"), WITHIN)
    assert await end_of(reader) == b""
    writer.close()


# Past ASGI ------------------------------------------------------------------------------------------------


def post(body: bytes, *headers: bytes) -> bytes:
    head = [b"POST / HTTP/1.1", b"Host: receiver", *headers]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(body), b"", body])


async def echo(_: RawHeaders, body: bytes) -> bytes | Response:
    """Answers with the body at once; where that is a status, with a refusal."""
    await asyncio.sleep(0)
    return Response(body, int(body)) if body.isdigit() else b"direct " + body


async def answers_to(sent: bytes, direct: Direct = echo) -> bytes:
    """What comes for this in one piece, the last of which ends the connection."""
    async with door(direct=direct) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        answers = await end_of(reader)
        writer.close()
    return answers


async def test_a_post_in_one_piece_is_answered_past_asgi_and_in_several_through_it() -> None:
    async with door(direct=echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"whole"))
        head = await asyncio.wait_for(reader.readuntil(b"direct whole"), WITHIN)
        # More than one read takes.
        large = b"x" * 1_000_000
        writer.write(post(large))
        through = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WITHIN)
        assert await asyncio.wait_for(reader.readexactly(len(large)), WITHIN) == large
        writer.write(post(b"422"))
        refused = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n422"), WITHIN)
        writer.close()
    assert head.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
    assert b"content-length: 12\r\n" in head
    assert b"text/plain" in through
    assert refused.startswith(b"HTTP/1.1 422 Unprocessable Entity\r\n")


async def test_a_body_may_come_right_behind_its_head() -> None:
    async with door(direct=echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head, _, body = post(b"whole").partition(b"\r\n\r\n")
        for pieces, answer in [
            ([head + b"\r\n\r\n", body], b"direct whole"),
            ([head + b"\r\n\r\nwh", b"ole"], b"direct whole"),
            ([head, b"\r\n\r\nwh", b"ole" + GET], b"direct whole"),
            ([], b"empty"),
            ([head + b"\r\n\r\nw", b"ho", b"le"], b"\r\n\r\nwhole"),
            ([post(b"422")], b"\r\n\r\n422"),
        ]:
            for piece in pieces:
                await received(writer, piece)
            assert await asyncio.wait_for(reader.readuntil(answer), WITHIN)
        writer.close()


async def test_a_body_that_does_not_come_right_behind_its_head_is_left_to_the_application() -> None:
    """Whose limits it then meets; so does one that a stop or the end of its connection finds."""
    head = post(b"whole")[:-5]
    waits = asyncio.Event()
    async with door(direct=echo, rest=0, waits=waits) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await received(writer, head)
        await asyncio.wait_for(waits.wait(), WITHIN)
        await received(writer, b"whole")
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\nwhole"), WITHIN)
        writer.close()
    async with door(direct=echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await received(writer, head)
    assert b"ledger.stopping" in await end_of(reader)
    writer.close()


async def test_posts_at_once_are_answered_in_their_order() -> None:
    answers = await answers_to(post(b"one") + GET + post(b"two") + post(b"three", b"Connection: close"))
    bodies = [answer.rpartition(b"\r\n\r\n")[2] for answer in answers.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert [body.removeprefix(b"direct ") for body in bodies] == [b"one", b"empty", b"two", b"three"]


async def test_a_body_in_chunks_of_one_piece_is_whole() -> None:
    head = b"POST / HTTP/1.1\r\nHost: receiver\r\nTransfer-Encoding: chunked\r\n\r\n"
    answers = await answers_to(
        head + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n" + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    )
    assert b"\r\n\r\ndirect abc" in answers


async def test_a_bug_behind_a_direct_answer_is_logged_and_ends_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(_: RawHeaders, __: bytes) -> bytes:
        raise RuntimeError("a bug")

    answers = await answers_to(post(b"x"), broken)
    assert answers.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b"connection: close\r\n" in answers
    assert "RuntimeError: a bug" in caplog.text


async def test_a_stop_answers_what_is_under_way_with_a_503() -> None:
    began = asyncio.Event()

    async def endless(_: RawHeaders, __: bytes) -> bytes:
        began.set()
        await asyncio.Event().wait()
        return b""

    async with door(direct=endless) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"x"))
        await asyncio.wait_for(began.wait(), WITHIN)
    answer = await end_of(reader)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"ledger.stopping" in answer
