"""Writes a ZIP as a stream: its entries are stored, not deflated, and only its directory is remembered.

Size and CRC stand in front of each entry, so that a reader of the stream needs no end to seek to (APPNOTE.TXT
6.3.10, 4.3 and 4.5.3). Sizes, offsets and numbers beyond 32 and 16 bits are ZIP64. The directory is written
to a file once it is large: no number of entries takes up memory.
"""

import struct
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

_MAX_16, _MAX_32 = 0xFFFF, 0xFFFFFFFF
_IN_MEMORY = 1 << 20
"""Bytes of the directory beyond which it is written to a file; some 8,000 entries."""

_BLOCK = 64 * 1024
_LOCAL, _CENTRAL = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L")
_END, _END_64, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_PLAIN, _WITH_64 = 20, 45
"""The versions of the format that a reader needs."""

_UTF_8 = 0x0800
_UNIX, _FILE = 3 << 8, 0o100644 << 16


class ZipStream:
    """The frame around entries whose bytes the caller sends itself, in the order of the calls.

    ``folder`` is where a large directory is written.
    """

    def __init__(self, folder: Path) -> None:
        self._directory = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(folder))  # noqa: SIM115 - `close` closes it
        self._offset = 0
        self._entries = 0

    def entry(self, name: str, *, size: int, crc: int, at: int) -> bytes:
        """Return what stands in front of an entry's bytes; ``at`` is ms since the epoch. Blocks."""
        raw = name.encode()
        date, time = _dos(at)
        large = size >= _MAX_32
        sizes = struct.pack("<2H2Q", 1, 16, size, size) if large else b""
        shown = _MAX_32 if large else size
        head = (_WITH_64 if large else _PLAIN, _UTF_8, 0, time, date, crc)
        local = _LOCAL.pack(b"PK\3\4", *head, shown, shown, len(raw), len(sizes)) + raw + sizes
        extra, offset = b"", self._offset
        if large or offset >= _MAX_32:
            extra = struct.pack("<2H3Q", 1, 24, size, size, offset)
            shown = offset = _MAX_32
            head = (_WITH_64, *head[1:])
        ends = (shown, shown, len(raw), len(extra), 0, 0, 0, _FILE, offset)
        self._directory.write(_CENTRAL.pack(b"PK\1\2", _UNIX | _WITH_64, *head, *ends) + raw + extra)
        self._offset += len(local) + size
        self._entries += 1
        return local

    def end(self) -> Iterator[bytes]:
        """Yield the directory, behind the last entry. Blocks."""
        begin, size, entries = self._offset, self._directory.tell(), self._entries
        self._directory.seek(0)
        while block := self._directory.read(_BLOCK):
            yield block
        if begin >= _MAX_32 or size >= _MAX_32 or entries >= _MAX_16:
            numbers = (0, 0, entries, entries, size, begin)
            yield _END_64.pack(b"PK\6\6", _END_64.size - 12, _UNIX | _WITH_64, _WITH_64, *numbers)
            yield _LOCATOR.pack(b"PK\6\7", 0, begin + size, 1)
        number = min(entries, _MAX_16)
        yield _END.pack(b"PK\5\6", 0, 0, number, number, min(size, _MAX_32), min(begin, _MAX_32), 0)

    def close(self) -> None:
        self._directory.close()


def _dos(at: int) -> tuple[int, int]:
    """Return date and time as ZIP has them: from 1980 on, in steps of two seconds; here in UTC."""
    when = max(datetime.fromtimestamp(at / 1000, UTC), datetime(1980, 1, 1, tzinfo=UTC))
    date = when.year - 1980 << 9 | when.month << 5 | when.day
    return date, when.hour << 11 | when.minute << 5 | when.second // 2
