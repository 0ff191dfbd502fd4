#!/usr/bin/env bash
# A peer that closes a connection at once makes anyio's socket stream raise AttributeError, on uvloop alone.
#
# anyio 4.16.0, httpcore 1.0.9, uvloop 0.23.0, Python 3.11.7 on Linux, November 2026.
#
# httpcore asks a new stream for its TLS object before it sends a request. anyio answers that question by way of the
# socket's peer name, and takes the socket from the transport. Once a connection is closed, uvloop's transport has no
# socket any more. So a peer that resets a connection as soon as it was accepted causes, now and then,
# "AttributeError: 'NoneType' object has no attribute 'getpeername'" instead of httpcore.ConnectError. A caller that
# catches httpcore's and httpx's errors alone does not catch it. With asyncio's own event loop the answer is None.
#
# Output seen:
#   asyncio: None
#   uvloop: AttributeError: 'NoneType' object has no attribute 'getpeername'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install anyio==4.16.0 httpcore==1.0.9 uvloop==0.23.0
cat >"$folder/look.py" <<'PYTHON'
import asyncio

import httpcore
import uvloop


async def look():
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        stream = await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", server.sockets[0].getsockname()[1])
        await stream.aclose()  # the state of a stream whose peer is gone already, without the race
        try:
            return str(stream.get_extra_info("ssl_object"))
        except AttributeError as error:
            return f"AttributeError: {error}"


for name, factory in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
    with asyncio.Runner(loop_factory=factory) as runner:
        print(f"{name}: {runner.run(look())}")
PYTHON
seen=$("$folder/venv/bin/python" "$folder/look.py")
echo "$seen"
wanted="asyncio: None
uvloop: AttributeError: 'NoneType' object has no attribute 'getpeername'"
[ "$seen" = "$wanted" ]
