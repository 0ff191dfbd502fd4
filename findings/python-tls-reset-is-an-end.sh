#!/usr/bin/env bash
# Before Python 3.13, requests and httpx take a reset under TLS for the end of a body without a length.
#
# requests 2.34.2 and httpx 0.28.1 with Python 3.11.7, 3.12.1 and 3.13.0, OpenSSL 3.0.19, trustme 1.2.1, on Linux,
# November 2026.
#
# A body that has neither Content-Length nor chunks ends with its connection. Over TCP a reset is an error, so that half a
# body is not taken for the whole. Over TLS, Python's ssl returns b"" for a reset, as for an end, although no close_notify
# has come: both clients return the half and no error. Since 3.13 it raises ConnectionResetError. An end without
# close_notify that is no reset stays an end, whatever the version (suppress_ragged_eofs).
#
# Output seen: what a client returns of a body whose host sends "half" and then resets the connection
#   before 3.13, requests over TCP: ProtocolError
#   before 3.13, requests over TLS: b'half'
#   before 3.13, httpx over TCP: ReadError
#   before 3.13, httpx over TLS: b'half'
#   since 3.13, requests over TCP: ProtocolError
#   since 3.13, requests over TLS: ProtocolError
#   since 3.13, httpx over TCP: ReadError
#   since 3.13, httpx over TLS: ReadError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install \
  requests==2.34.2 httpx==0.28.1 trustme==1.2.1
cat >"$folder/look.py" <<'PYTHON'
import socket
import ssl
import struct
import sys
import threading

import httpx
import requests
import trustme

authority = trustme.CA()
authority.cert_pem.write_to_path("ca.pem")
served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
authority.issue_cert("localhost").configure_cert(served)


class Host:
    def __init__(self, scheme):
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{scheme}://localhost:{listener.getsockname()[1]}/"
        self.half_is_read, self.is_reset = threading.Event(), threading.Event()
        threading.Thread(target=self.serve, args=(listener, scheme), daemon=True).start()

    def serve(self, listener, scheme):
        peer, _ = listener.accept()
        if scheme == "https":
            peer = served.wrap_socket(peer, server_side=True)
        peer.recv(65536)
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        self.half_is_read.wait()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket.close(peer)
        self.is_reset.set()

    def read(self, pieces):
        body = next(pieces)
        self.half_is_read.set()
        self.is_reset.wait()
        return body + b"".join(pieces)


def by_requests(host):
    answer = requests.get(host.url, stream=True, verify="ca.pem")
    return host.read(answer.raw.stream(4))


def by_httpx(host):
    context = ssl.create_default_context(cafile="ca.pem")
    with httpx.Client(verify=context) as client, client.stream("GET", host.url) as answer:
        return host.read(answer.iter_raw())


version = "since 3.13" if sys.version_info >= (3, 13) else "before 3.13"
for name, fetch in (("requests", by_requests), ("httpx", by_httpx)):
    for layer, scheme in (("TCP", "http"), ("TLS", "https")):
        try:
            found = repr(fetch(Host(scheme)))
        except Exception as error:
            found = type(error).__name__
        print(f"{version}, {name} over {layer}: {found}")
PYTHON
seen=$(cd "$folder" && "$folder/venv/bin/python" look.py)
echo "$seen"
wanted=$(sed -n 's/^#   \(before\|since\)/\1/p' "$0" | grep "^${seen%% 3.13*}")
[ "$seen" = "$wanted" ]
