#!/usr/bin/env bash
# httptools drops the body of a request that offers an upgrade, and takes it for another protocol's first bytes.
#
# httptools 0.9.0 (llhttp 9), Python 3.11.7 on Linux, November 2026.
#
# A server may ignore an offer of an upgrade (RFC 9110, 7.8), and the request then has its body like any other. llhttp
# parses that body. httptools answers llhttp's on_headers_complete in a way that skips it: on_body is never called,
# on_message_complete is, and HttpParserUpgrade has the offset of the body. Java's HttpClient and `curl --http2` offer
# h2c with the first request of a connection, so a server on httptools, such as uvicorn 0.54.0, sees their POSTs empty.
#
# Output seen:
#   plain: on_body b'body', on_message_complete
#   h2c: on_message_complete, HttpParserUpgrade, left b'body'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install httptools==0.9.0
cat >"$folder/look.py" <<'PYTHON'
import httptools


class Seen(list):
    def on_body(self, body):
        self.append(f"on_body {body!r}")

    def on_message_complete(self):
        self.append("on_message_complete")


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
for name, offer in (("plain", b""), ("h2c", OFFER)):
    request = b"POST / HTTP/1.1\r\nHost: example.com\r\n" + offer + b"Content-Length: 4\r\n\r\nbody"
    seen = Seen()
    try:
        httptools.HttpRequestParser(seen).feed_data(request)
    except httptools.HttpParserUpgrade as upgrade:
        seen += ["HttpParserUpgrade", f"left {request[upgrade.args[0]:]!r}"]
    print(f"{name}: {', '.join(seen)}")
PYTHON
seen=$("$folder/venv/bin/python" "$folder/look.py")
echo "$seen"
wanted="plain: on_body b'body', on_message_complete
h2c: on_message_complete, HttpParserUpgrade, left b'body'"
[ "$seen" = "$wanted" ]
