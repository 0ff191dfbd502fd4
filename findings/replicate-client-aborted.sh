#!/usr/bin/env bash
# Replicate's Python client cannot read a prediction that was aborted, nor a list that holds one.
#
# replicate 1.0.7, Python 3.11.7 on Linux, November 2026.
#
# The provider's description of its API knows a further final status, "aborted". The client's model allows five others,
# so a get of such a prediction raises pydantic's ValidationError. So does a page of the list that holds one, and the
# other predictions of the page are not returned either. Code that waits for an end with this client sees an exception
# of another library in place of the end.
#
# Output seen:
#   get, succeeded: succeeded
#   get, aborted: ValidationError
#   list of both: ValidationError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install replicate==1.0.7
cat >"$folder/look.py" <<'PYTHON'
import httpx
import replicate


def prediction(status):
    return {
        "id": status, "model": "example/upscaler", "version": "1", "input": {}, "output": None, "status": status,
        "error": None, "logs": "", "created_at": "2026-11-01T00:00:00Z",
        "urls": {"get": f"https://api.replicate.com/v1/predictions/{status}"},
    }


def answer(request):
    name = request.url.path.rpartition("/")[2]
    if name == "predictions":
        return httpx.Response(200, json={"next": None, "previous": None,
                                         "results": [prediction("succeeded"), prediction("aborted")]})
    return httpx.Response(200, json=prediction(name))


client = replicate.Client(api_token="example", transport=httpx.MockTransport(answer))


def seen(call):
    try:
        return call()
    except Exception as error:
        return type(error).__name__


print("get, succeeded:", seen(lambda: client.predictions.get("succeeded").status))
print("get, aborted:", seen(lambda: client.predictions.get("aborted").status))
print("list of both:", seen(lambda: [found.status for found in client.predictions.list().results]))
PYTHON
seen=$("$folder/venv/bin/python" "$folder/look.py")
echo "$seen"
wanted="get, succeeded: succeeded
get, aborted: ValidationError
list of both: ValidationError"
[ "$seen" = "$wanted" ]
