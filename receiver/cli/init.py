"""``receiver init``."""

import base64
import secrets

import typer

from receiver.cli import output
from receiver.cli.common import AsJson


def init(*, as_json: AsJson = False) -> None:
    """Print a ready .env with fresh secrets.

    Keep them private: (umask 077; receiver init > .env)
    """
    values = {
        "RECEIVER_WEBHOOK_HEADERS": f'{{"X-Webhook-Secret": "{secrets.token_urlsafe(32)}"}}',
        "RECEIVER_API_TOKENS": secrets.token_urlsafe(32),
        "RECEIVER_NOTIFY_SECRET": f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}",
    }
    if as_json:
        output.print_json(values)
    else:
        for name, value in values.items():
            typer.echo(f"{name}='{value}'")  # single quotes keep JSON as it is
