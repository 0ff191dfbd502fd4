"""``python -m receiver.sandbox``."""

import typer

from receiver.sandbox.command import sandbox

if __name__ == "__main__":
    typer.run(sandbox)
