import numpy as np
import pytest

from fl_mlmc.models.wordpiece import WordPiece

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "cafe", ",", "!", "the", "中", "##s"]


@pytest.fixture
def tokenizer():
    return WordPiece({token: number for number, token in enumerate(TOKENS)})


def words(tokenizer, text):
    return [TOKENS[number] for number in tokenizer.encode(text)]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("unaffable", ["un", "##aff", "##able"]),
        ("The Café,  UNable!", ["the", "cafe", ",", "un", "##able", "!"]),
        ("the\tthe\nthe\0", ["the"] * 3),
        ("un\x85able", ["un", "##able"]),
        ("xyz the", ["[UNK]", "the"]),
        ("the中the", ["the", "中", "the"]),
        ("un" * 51, ["[UNK]"]),
        ("", []),
    ],
)
def test_text_becomes_the_longest_pieces(tokenizer, text, tokens):
    assert words(tokenizer, text) == tokens


def test_a_batch_has_marks_is_cut_and_padded(tokenizer):
    batch = tokenizer.batch(["the", "the the the the the"], 5)
    assert batch.dtype == np.int32
    assert batch.tolist() == [[2, 10, 3, 0, 0], [2, 10, 10, 10, 3]]


def test_a_vocabulary_is_read_a_token_a_line(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    assert WordPiece.load(tmp_path).encode("the cafes") == [10, 7, 12]


def test_a_vocabulary_without_marks_is_refused():
    with pytest.raises(ValueError, match=r"of 1 tokens lacks \[PAD\], \[UNK\], \[CLS\], \[SEP\]"):
        WordPiece({"the": 0})
