"""The vendor's own client, in an environment of its own, against the sandbox."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from receiver.sandbox.pictures import draw
from tests.sandbox.harness import TOKEN, Neighbour, Sandbox
from tests.support.trust import OUTSIDE

SCRIPT = """
import sys
import time

from ximilar.client.asyncr import AsyncRClient

token, endpoint, source, webhook = sys.argv[1:]
client = AsyncRClient(token=token, endpoint=endpoint)
body = {"endpoint": "upscale_4x", "records": [{"_url": source}], "webhook": {"endpoint": webhook}}
job = client.submit(body, "upscaler")
assert job.status == "CREATED", job.status
while not job.update():
    time.sleep(0.05)
assert job.status == "DONE", job.status
assert job.response["records"][0]["_upscaled_width"] == 160, job.response

again, _ = client.get_request(job.id)
assert again.response == job.response

rows, following, answer = client.get_requests(type="upscaler", status="DONE")
assert [row.id for row in rows] == [job.id], rows
assert (following, answer["count"]) == (None, 1), answer
rows, _, answer = client.get_requests(status="FAILED")
assert (rows, answer["count"]) == ([], 0), answer
print(job.id)
"""


@pytest.mark.timeout(600)
def test_the_vendors_client_submits_asks_and_lists(tmp_path: Path, box: Sandbox, near: Neighbour) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-cache-dir", "ximilar-client==1.39.0"], check=True, env=OUTSIDE)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    source = near.serve(draw(1, (40, 30), "jpg"))
    done = subprocess.run(
        [python, script, TOKEN, f"{box.own}/", source, near.webhook],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert near.take().body["id"] == done.stdout.strip()
