"""Coverage-guided fuzzing of the payload reader, with atheris: half a minute in CI, longer by hand.

    make fuzz FUZZ_SECONDS=600
    python tests/fuzz/fuzz_payload.py -max_total_time=600 tests/fuzz/corpus    keeps new inputs of interest

The first byte of an input chooses the size that the reader expects, the rest are blocks; magic, version, size and
checksum are put in front, as fuzzers do not guess checksums. Every input must give a `WireError` or a payload whose
values and sums are finite, within the memory of two vectors and the work that bytes and coordinates pay for. `--seed`
writes the corpus's first inputs: samples of every kind, and forgeries that asked for too much before that was counted.
"""

import sys
import tracemalloc
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

try:
    import atheris
except ImportError:
    sys.exit("fuzzing needs atheris, which has wheels for Linux on x86-64: pip install atheris")

with atheris.instrument_imports(include=["fl_mlmc.compression"]):
    from fl_mlmc.testing import fuzz_payload, fuzz_seeds

if "--seed" in sys.argv:
    for name, data in fuzz_seeds().items():
        (HERE / "corpus" / name).write_bytes(data)
else:
    tracemalloc.start()  # once: each start and stop leaks some kilobytes of CPython's own
    atheris.Setup(sys.argv, fuzz_payload)
    atheris.Fuzz()
