"""Coverage-guided fuzzing of whole replies, with atheris: half a minute in CI, longer by hand.

    make fuzz FUZZ_SECONDS=600
    python tests/fuzz/fuzz_message.py -max_total_time=600 tests/fuzz/messages    keeps new inputs of interest

An input is a run config and edits of a good reply: its config record, arrays, records, name and sender. Whatever comes
of them, no exception leaves the strategy, every sampled client has its row, and the model stays finite. `--seed` writes
the corpus's first inputs.
"""

import logging
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

try:
    import atheris
except ImportError:
    sys.exit("fuzzing needs atheris, which has wheels for Linux on x86-64: pip install atheris")

with atheris.instrument_imports(include=["fl_mlmc", "strategies"]):
    from fl_mlmc.simulations.testing import SETTINGS, Trial, fuzz_reply, sample_replies

if "--seed" in sys.argv:
    for name, data in sample_replies().items():
        (HERE / "messages" / name).write_bytes(data)
else:
    logging.getLogger("flwr").setLevel(logging.CRITICAL)  # a line for each reply that is dropped
    folder = Path(tempfile.mkdtemp())
    trials = {name: Trial(folder / name, changes) for name, changes in SETTINGS.items()}
    atheris.Setup(sys.argv, lambda data: fuzz_reply(trials, data))
    atheris.Fuzz()
