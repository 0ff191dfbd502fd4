#!/usr/bin/env bash
# Brotli's output_buffer_limit is exceeded by about its double, and output is held back behind can_accept_more_data().
#
# Brotli 1.2.1, Python 3.11.7 on Linux, November 2026.
#
# The documentation of Decompressor.process() calls output_buffer_limit "the maximum size of the output buffer", and
# asks for calls with empty input "until can_accept_more_data() once returns True". A limit of 1 MiB gives 2,064,288
# bytes at once. And can_accept_more_data() is True after 32,752 bytes, far below the limit, while decoded output of the
# same input still waits: a loop that ends there loses the end of the body. Calling on with empty input until nothing
# comes gives all of it.
#
# Output seen:
#   largest piece with a limit of 1048576: 2064288
#   stopped at can_accept_more_data(): 32752
#   called on until nothing came: 1048572
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install brotli==1.2.1
cat >"$folder/look.py" <<'PYTHON'
import random

import brotli

LIMIT = 1048576


def pieces(body, until):
    decoder = brotli.Decompressor()
    while True:
        piece = decoder.process(body, output_buffer_limit=LIMIT)
        yield piece
        if until(decoder, piece):
            return
        body = b""


zeros = brotli.compress(bytes(5 * LIMIT))
nothing_came = lambda decoder, piece: not piece or decoder.is_finished()
print(f"largest piece with a limit of {LIMIT}: {max(map(len, pieces(zeros, nothing_came)))}")

first = brotli.compress(random.Random(1).randbytes(3 * LIMIT), quality=1)[:LIMIT]
stopped = sum(map(len, pieces(first, lambda decoder, piece: decoder.can_accept_more_data())))
called_on = sum(map(len, pieces(first, nothing_came)))
print(f"stopped at can_accept_more_data(): {stopped}")
print(f"called on until nothing came: {called_on}")
PYTHON
seen=$("$folder/venv/bin/python" "$folder/look.py")
echo "$seen"
wanted="largest piece with a limit of 1048576: 2064288
stopped at can_accept_more_data(): 32752
called on until nothing came: 1048572"
[ "$seen" = "$wanted" ]
