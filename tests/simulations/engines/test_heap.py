import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

FAULTS = """
import ctypes, platform, resource, sys
from fl_mlmc.simulations.engines.heap import keep_heap

if sys.argv[1] == "kept":
    keep_heap()
library = ctypes.CDLL(None)
library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
SIZE = 16 << 20


def step():
    blocks = [library.malloc(SIZE) for _ in range(4)]
    for block in blocks:
        library.memset(block, 1, SIZE)
    for block in blocks:
        library.free(block)


for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, platform.libc_ver()[0])
"""


def faults(how: str) -> int:
    """Page faults of steps that ask for 256 MB in all, 65,000 pages, and free them."""
    told = subprocess.run([sys.executable, "-c", FAULTS, how], cwd=ROOT, capture_output=True, text=True, check=True)
    count, library = told.stdout.split()
    if library != "glibc":
        pytest.skip(f"{library} is left as it is")
    return int(count)


@pytest.mark.skipif(sys.platform != "linux", reason="another system's allocator is left as it is")
def test_memory_that_is_free_again_is_kept() -> None:
    assert faults("given back") > 20_000  # else there is nothing to mend
    assert faults("kept") < 1_000
