#!/usr/bin/env bash
# standardwebhooks signs a wrong moment for an aware time that is not in UTC, and verifies none of these itself.
#
# standardwebhooks 1.1.0, Python 3.11.7 on Linux, November 2026.
#
# Webhook.sign() takes a datetime. It does not convert the time to UTC but relabels it: the offset is dropped, and the
# clock's digits are read as UTC. The header webhook-timestamp of a sender holds the true seconds since the epoch, so
# that the signature fits no delivery. Times in UTC, and naive ones that mean UTC, are signed as they are.
#
# Output seen:
#   UTC: verified
#   +02:00, the same moment: WebhookVerificationError
#   moments signed differ by 7200 s
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install standardwebhooks==1.1.0
cat >"$folder/look.py" <<'PYTHON'
import base64
from datetime import datetime, timedelta, timezone

from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

webhook = Webhook("whsec_" + base64.b64encode(b"a key of the example").decode())
moment = datetime.now(timezone.utc).replace(microsecond=0)
east = moment.astimezone(timezone(timedelta(hours=2)))
assert east == moment
body = '{"id": "example"}'


def verdict(signature):
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": signature,
    }
    try:
        webhook.verify(body, headers)
    except WebhookVerificationError as error:
        return type(error).__name__
    return "verified"


print("UTC:", verdict(webhook.sign("msg_1", moment, body)))
print("+02:00, the same moment:", verdict(webhook.sign("msg_1", east, body)))
shifts = [n for n in range(-86400, 86401, 900)
          if webhook.sign("msg_1", moment + timedelta(seconds=n), body) == webhook.sign("msg_1", east, body)]
print(f"moments signed differ by {shifts[0]} s")
PYTHON
seen=$("$folder/venv/bin/python" "$folder/look.py")
echo "$seen"
wanted="UTC: verified
+02:00, the same moment: WebhookVerificationError
moments signed differ by 7200 s"
[ "$seen" = "$wanted" ]
