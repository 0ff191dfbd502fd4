"""Submits one drawn picture to the sandbox that shares the receiver's network, and prints the job's id.

    python submit-to-sandbox.py [URL of the sandbox's API]

The settings are the receiver's own: the webhook's headers, its port, the sandbox's token.
"""

import base64
import io
import os
import sys

import httpx
from PIL import Image

from receiver.config import load
from receiver.core.paths import webhook_path

config = load(os.environ)
token = config.ximilar_api_token
api = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8090/account/v2"

picture = io.BytesIO()
Image.linear_gradient("L").save(picture, "PNG")
body = {
    "type": "upscaler",
    "endpoint": "upscale_2x",
    "records": [{"_base64": base64.b64encode(picture.getvalue()).decode()}],
    "webhook": {
        "endpoint": f"http://127.0.0.1:{config.port}{webhook_path('ximilar')}",
        "headers": {
            **{name: values[0].get_secret_value() for name, values in config.webhook_headers.items()},
            "X-Receiver-Ref": "gradient",
        },
    },
}
answer = httpx.post(
    f"{api}/request",
    json=body,
    headers={"Authorization": f"Token {token.get_secret_value() if token else 'sandbox'}"},
    timeout=30,
    trust_env=False,
)
print(answer.raise_for_status().json()["id"])  # noqa: T201 - a command's output
