from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from fl_mlmc.data.texts import parse_text_encoding
from fl_mlmc.run.config import RunConfig
from fl_mlmc.simulations import run

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "##s"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    rows = [("good films", 1), ("bad film", 0)] * 12
    data = Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]}, features)
    for split in ("train", "test"):
        data.to_parquet(tmp_path / f"{split}.parquet")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return tmp_path


def test_texts_become_words_tokens_or_bytes(folder: Path) -> None:
    texts = ["good films", "odd"]
    assert parse_text_encoding("hashed(length=16)").encode(texts).shape == (2, 16)
    tokens = parse_text_encoding(f"tokens({str(folder)!r}, length=6)").encode(texts)
    assert tokens.tolist() == [[2, 4, 6, 7, 3, 0], [2, 1, 3, 0, 0, 0]]
    letters = parse_text_encoding("characters(length=4)").encode(texts)
    assert letters.tolist() == [list(b"good"), [0, *b"odd"]]


def test_an_unknown_encoding_is_named() -> None:
    with pytest.raises(ValueError, match="unknown text encoding 'words'; known: characters, hashed, tokens"):
        parse_text_encoding("words")


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("hashed", "mlp(hidden=(8,))"),
        ("tokens({folder!r}, length=8)", "transformer(layers=1, stream=8, heads=2, feed_forward=8, vocabulary=8)"),
        ("characters(length=10)", "char_lstm(hidden=(8,), vocabulary=256)"),
    ],
)
def test_every_text_model_trains_on_its_encoding(small: RunConfig, folder: Path, text: str, model: str) -> None:
    settings: dict[str, Any] = {**small.to_flower(), "data_dir": str(folder), "model": model}
    result = run(None, **{**settings, "text": text.format(folder=str(folder))})
    assert (result.clients["status"] == "ok").all()
    assert np.isfinite(result.rounds["loss"]).all()
