"""Write the golden vectors anew: NAME.payload is the encoded bytes, NAME.f32 the float32 values that they decode to.

A change to a file that exists breaks every payload out there: only a new version of the format may do that.
Run from the root of the repository: python tests/vectors/regenerate.py
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from fl_mlmc.compression.wire import encode_payload  # noqa: E402
from fl_mlmc.testing import long_payloads, sample_payloads  # noqa: E402

written = {name: (encode_payload(payload), payload) for name, payload in sample_payloads().items()}
for name, (data, payload) in {**written, **long_payloads()}.items():
    (HERE / f"{name}.payload").write_bytes(data)
    (HERE / f"{name}.f32").write_bytes(payload.dense().numpy().astype("<f4").tobytes())
    print(name)
