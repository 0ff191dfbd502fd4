"""``receiver ledger-copy``."""

from typing import Annotated

import typer

from receiver import config as settings
from receiver.cli import output
from receiver.cli.common import AsJson, progress_bar
from receiver.cli.maintenance import FromStart, load_checked_config
from receiver.core.errors import ConfigError
from receiver.core.ledger_location import LedgerLocation


def ledger_copy(
    *,
    target: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="URL",
            help="The database, postgresql://user@host/database; else that of RECEIVER_LEDGER.",
        ),
    ] = None,
    restart: FromStart = False,
    as_json: AsJson = False,
) -> None:
    """Copy the ledger of the data directory into a PostgreSQL database that has none.

    It refuses while a serve runs on the data directory: what would be delivered meanwhile would be missing.
    A copy that was cut off goes on when it is begun again. At the end every row is compared; only then does
    a serve find the ledger. The file stays as it is. Then set RECEIVER_LEDGER, keep the data directory and
    RECEIVER_INSTANCE, since images that wait for the archive are in its spool, and start serve.
    """
    config, _ = load_checked_config()
    location = config.ledger_location
    if target is not None:
        location = LedgerLocation(location.data_dir, _checked(target), location.instance)
    if location.url is None:
        raise ConfigError("--to: says into which database; so does RECEIVER_LEDGER")
    try:
        from receiver.ledger.postgres.copy import copy_ledger  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigError(
            "--to: needs psycopg, which `pip install upscale-receiver[postgres]` brings"
        ) from None
    with progress_bar("rows copied and compared", quiet=as_json) as on_progress:
        copied = copy_ledger(location, restart=restart, on_progress=on_progress)
    if as_json:
        output.print_json(
            {
                "resumed": copied.resumed,
                "tables": {
                    name: {"rows": rows, "sha256": copied.digests[name]} for name, rows in copied.rows.items()
                },
            }
        )
        return
    for name, rows in copied.rows.items():
        typer.echo(f"{rows:>9}  {name}")
    typer.echo("All rows were compared. Set RECEIVER_LEDGER, and start serve with this data directory.")


def _checked(url: str) -> str:
    try:
        checked = settings.load({"RECEIVER_LEDGER": url}).ledger
    except ConfigError as error:
        raise typer.BadParameter(str(error).partition(": ")[2], param_hint="--to") from None
    return checked.get_secret_value() if checked is not None else ""
