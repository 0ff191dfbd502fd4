"""A process that records deliveries until it is killed, and prints the id of each that was acknowledged.

python -m tests.ledger.acknowledge FOLDER PREFIX
"""

import asyncio
import itertools
import os
import sys
from pathlib import Path

from receiver.ledger import DirectoryLock, Ledger
from tests.ledger.actions import delivery

AT_ONCE = 20


async def main(folder: Path, prefix: str) -> None:
    """Locks the folder as a server does, and records without an end."""
    lock = DirectoryLock(folder)
    ledger = await Ledger.serve(folder)
    numbers = itertools.count()

    async def deliver() -> None:
        for number in numbers:
            job = f"{prefix}-{number}"
            await ledger.record(delivery(job))
            os.write(1, f"{job}\n".encode())

    await asyncio.gather(*(deliver() for _ in range(AT_ONCE)))
    lock.release()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
