"""Every input that the fuzzers have kept is still handled."""

from pathlib import Path

import pytest

from fl_mlmc.simulations.testing import SETTINGS, Trial, fuzz_reply, sample_replies
from fl_mlmc.testing import fuzz_payload, fuzz_seeds

CORPUS, MESSAGES = (sorted((Path(__file__).parent / name).iterdir()) for name in ("corpus", "messages"))


def test_the_corpus_begins_with_every_sample_and_every_known_forgery() -> None:
    kept = {path.read_bytes() for path in CORPUS}
    assert set(fuzz_seeds().values()) <= kept


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_an_input_of_the_corpus_is_refused_or_sound(path: Path) -> None:
    fuzz_payload(path.read_bytes())


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trial]:
    folder = tmp_path_factory.mktemp("trials")
    return {name: Trial(folder / name, changes) for name, changes in SETTINGS.items()}


def test_the_corpus_of_messages_begins_with_every_sample() -> None:
    assert set(sample_replies().values()) <= {path.read_bytes() for path in MESSAGES}


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.name)
def test_a_reply_of_the_corpus_is_taken_or_dropped(trials: dict[str, Trial], path: Path) -> None:
    row = fuzz_reply(trials, path.read_bytes())
    assert (row["status"] == "ok") == (path.name in ("good", "labels", "curvature-in-range"))
