"""Writes a ZIP as a stream: its entries are stored, not deflated, and only its directory is remembered.

Size and CRC stand in front of each entry, so that a reader of the stream needs no end to seek to (APPNOTE.TXT
6.3.10, 4.3 and 4.5.3); `zipfile` writes them behind. Sizes, offsets and numbers beyond 32 and 16 bits are
ZIP64. The directory is written to a file once it is large: no number of entries takes up memory.
"""

import struct
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from zipfile import ZIP64_LIMIT, ZipInfo

_MAX_16, _MAX_32 = 0xFFFF, 0xFFFFFFFF
_IN_MEMORY = 1 << 20
"""Bytes of the directory beyond which it is written to a file; some 8,000 entries."""

_BLOCK = 64 * 1024
_END, _END_64, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_PLAIN, _WITH_64 = 20, 45
"""The versions of the format that a reader needs."""

_UNIX, _FILE = 3 << 8, 0o100644 << 16
_BEGIN = datetime(1980, 1, 1, tzinfo=UTC)
"""The first time that a ZIP can hold."""


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
        when = max(datetime.fromtimestamp(at / 1000, UTC), _BEGIN)
        info = ZipInfo(name, (when.year, when.month, when.day, when.hour, when.minute, when.second))
        info.CRC, info.file_size, info.compress_size = crc, size, size
        local, raw = info.FileHeader(), name.encode()
        beyond = [size, size] if size > ZIP64_LIMIT else []
        if self._offset >= _MAX_32:
            beyond.append(self._offset)
        extra = struct.pack(f"<2H{len(beyond)}Q", 1, 8 * len(beyond), *beyond) if beyond else b""
        versions = struct.pack("<2H", _UNIX | _WITH_64, _WITH_64 if beyond else _PLAIN)
        same = local[6:26]  # flags, method, time, date, CRC and sizes
        ends = (len(raw), len(extra), 0, 0, 0, _FILE, min(self._offset, _MAX_32))
        self._directory.write(b"PK\1\2" + versions + same + struct.pack("<5H2L", *ends) + raw + extra)
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
