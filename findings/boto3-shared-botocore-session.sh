#!/usr/bin/env bash
# Two boto3 sessions over one botocore session cannot both make an S3 client.
#
# boto3 1.44.5, botocore 1.44.8, Python 3.11.7 on Linux, November 2026.
#
# The documentation of boto3.session.Session says of botocore_session: "Use this Botocore session instead of creating a
# new default one". Each boto3 session registers its handlers at it anew, so the class of the second one's client gets
# the methods of transfers twice, and boto3 refuses.
#
# Output seen:
#   first: a client
#   second: RuntimeError: Cannot inject class attribute "upload_file", attribute already exists in class dict.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install boto3==1.44.5 botocore==1.44.8
cat >"$folder/look.py" <<'PYTHON'
import boto3
import botocore.session

shared = botocore.session.Session()
for name in ("first", "second"):
    session = boto3.session.Session(botocore_session=shared)
    try:
        session.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        print(f"{name}: a client")
    except RuntimeError as error:
        print(f"{name}: RuntimeError: {error}")
PYTHON
seen=$("$folder/venv/bin/python" "$folder/look.py")
echo "$seen"
wanted="first: a client
second: RuntimeError: Cannot inject class attribute \"upload_file\", attribute already exists in class dict."
[ "$seen" = "$wanted" ]
