"""Submits one drawn picture to the sandbox that shares the receiver's network, with our webhook."""

import base64
import io
import json
import os
import urllib.request

from PIL import Image

from receiver.config import load

headers = {name: values[0].get_secret_value() for name, values in load(os.environ).webhook_headers.items()}
picture = io.BytesIO()
Image.linear_gradient("L").save(picture, "PNG")
body = {
    "type": "upscaler",
    "endpoint": "upscale_2x",
    "records": [{"_base64": base64.b64encode(picture.getvalue()).decode()}],
    "webhook": {
        "url": "http://127.0.0.1:8080/webhooks/ximilar",
        "method": "POST",
        "headers": {**headers, "X-Receiver-Ref": "gradient"},
    },
}
request = urllib.request.Request(
    "http://127.0.0.1:8090/account/v2/request",
    json.dumps(body).encode(),
    {
        "Authorization": f"Token {os.environ.get('XIMILAR_API_TOKEN') or 'sandbox'}",
        "Content-Type": "application/json",
    },
)
with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
    print(json.load(answer)["id"])  # noqa: T201 - a command's output
