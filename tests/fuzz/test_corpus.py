"""Every input that the fuzzer has kept is still handled."""

from pathlib import Path

import pytest

from fl_mlmc.compression.wire import encode_payload
from fl_mlmc.testing import fuzz_input, fuzz_payload, long_payloads, sample_payloads

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


def test_the_corpus_begins_with_every_sample() -> None:
    kept = {path.read_bytes() for path in CORPUS}
    assert {fuzz_input(encode_payload(payload), payload.size) for payload in sample_payloads().values()} <= kept
    assert {fuzz_input(data, payload.size) for data, payload in long_payloads().values()} <= kept


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_an_input_of_the_corpus_is_refused_or_sound(path: Path) -> None:
    fuzz_payload(path.read_bytes())
