"""What the C library is called for."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys, threading
from listener import kernel
if sys.argv[1] == "shared":
    kernel.share_heaps()
libc = kernel.libc()
libc.malloc.restype = ctypes.c_void_p
barrier = threading.Barrier(6)
def allocate():
    libc.malloc(100_000)
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(6)]
for one in threads: one.start()
for one in threads: one.join()
libc.fopen.restype = ctypes.c_void_p
file = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fclose(ctypes.c_void_p(file))
"""


@pytest.mark.parametrize("kind", ["shared", "as ever"])
def test_threads_share_two_heaps(kind: str) -> None:
    """By default each thread has one of its own, which keeps what was used once."""
    result = subprocess.run([sys.executable, "-c", PROGRAM, kind], capture_output=True, text=True, check=True)
    heaps = result.stdout.count("<heap nr=")
    assert heaps == 2 if kind == "shared" else heaps > 2
