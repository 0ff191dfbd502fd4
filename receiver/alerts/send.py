"""The process that sends messages: reads them from stdin, and prints a JSON line for each channel."""

import json
import os
import re
import sys
import threading
from typing import Any

import apprise


def main() -> None:
    """Send each message in a thread, and end when all have been sent."""
    request = json.loads(sys.stdin.readline())
    answers = os.dup(1)
    os.dup2(2, 1)  # what services print is no answer
    asset = apprise.AppriseAsset(app_id="upscale-receiver", storage_mode="memory")
    apprise.Apprise(asset=asset).add("json://localhost")  # loads the services, once for all threads
    threads = [
        threading.Thread(target=_report, args=(message, asset, request["test"], answers), daemon=True)
        for message in request["messages"]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os._exit(0)  # a service may have left a thread


def _report(message: dict[str, Any], asset: apprise.AppriseAsset, test: bool, answers: int) -> None:  # noqa: FBT001 - a thread's argument
    try:
        error = _send(message, asset, test=test)
    except Exception as bug:  # noqa: BLE001 - of a service; without its text, which may hold a token
        error = f"{type(bug).__name__}."
    os.write(answers, json.dumps([message["channel"], error]).encode() + b"\n")


def _send(message: dict[str, Any], asset: apprise.AppriseAsset, *, test: bool) -> str | None:
    service = apprise.Apprise(asset=asset)
    if not service.add(message["url"]):
        return "Apprise cannot read its URL."
    if test:
        return None
    result = service.notify(message["body"], message["title"], message["kind"], body_format="text")
    if result:
        return None
    # Of Apprise's lines nothing but a status is safe to show.
    status = re.search(r"\berror=(\d{3})\b", " ".join(entry.message for entry in result.logs()))
    return f"The service answers {status[1]}." if status else "The service was not reached, or refused."


if __name__ == "__main__":
    main()
