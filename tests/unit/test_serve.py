"""What `serve` sets for its whole process, in a process of its own."""

import platform
import subprocess
import sys

import pytest

from receiver.bootstrap.serve import MALLOC_ARENAS

PROGRAM = """
import ctypes, sys, threading, zlib

if sys.argv[1] == "limited":
    from receiver.bootstrap.serve import limit_malloc_arenas
    limit_malloc_arenas()
met = threading.Barrier(8)

def work():
    # Beyond what Python's own allocator serves; all at once, so that each thread needs an arena.
    kept = [bytes(1000) for _ in range(100)]
    met.wait()

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_threads_share_the_arenas_of_malloc() -> None:
    def arenas(mode: str) -> int:
        program = [sys.executable, "-c", PROGRAM, mode]
        return subprocess.run(program, check=True, capture_output=True, text=True).stdout.count("<heap nr=")

    assert arenas("limited") <= MALLOC_ARENAS < arenas("unlimited")
