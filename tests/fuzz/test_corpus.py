"""Every input that the fuzzer has kept is still handled."""

from pathlib import Path

import pytest

from fl_mlmc.testing import fuzz_payload, fuzz_seeds

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


def test_the_corpus_begins_with_every_sample_and_every_known_forgery() -> None:
    kept = {path.read_bytes() for path in CORPUS}
    assert set(fuzz_seeds().values()) <= kept


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_an_input_of_the_corpus_is_refused_or_sound(path: Path) -> None:
    fuzz_payload(path.read_bytes())
