"""BERT's own tokenizer for uncased models: text to the token numbers that its embeddings were trained with.

Cleaning, lower case, accents off, splits at white space and punctuation, then for each word the longest pieces first
(Wu et al. 2016, arXiv 1609.08144), from the model's vocab.txt.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
LONGEST_WORD = 100
"""Longer words become one unknown token."""


class WordPiece:
    """A vocabulary, and the way from text to token numbers."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        missing = [token for token in (PAD, UNKNOWN, START, END) if token not in vocabulary]
        if missing:
            raise ValueError(f"the vocabulary of {len(vocabulary)} tokens lacks {', '.join(missing)}")
        self._numbers = dict(vocabulary)
        self._pieces = lru_cache(maxsize=100_000)(self._split)

    @classmethod
    def load(cls, directory: Path) -> "WordPiece":
        """From `directory`/vocab.txt, a token a line."""
        lines = (directory / "vocab.txt").read_text(encoding="utf-8").split("\n")
        return cls({token.rstrip("\r"): number for number, token in enumerate(lines) if token})

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text, without the marks of start and end."""
        return [number for word in _words(text) for number in self._pieces(word)]

    def batch(self, texts: Iterable[str], length: int) -> NDArray[np.int32]:
        """(texts, length) int32: start mark, tokens, end mark; cut at `length`, padded."""
        rows = [self.encode(text)[: length - 2] for text in texts]
        out = np.full((len(rows), length), self._numbers[PAD], np.int32)
        for row, tokens in zip(out, rows, strict=True):
            row[: len(tokens) + 2] = [self._numbers[START], *tokens, self._numbers[END]]
        return out

    def _split(self, word: str) -> tuple[int, ...]:
        numbers: list[int] = []
        start = 0
        while start < len(word) <= LONGEST_WORD:
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                number = self._numbers.get(prefix + word[start:end])
                if number is not None:
                    break
            else:
                return (self._numbers[UNKNOWN],)
            numbers.append(number)
            start = end
        return tuple(numbers) or (self._numbers[UNKNOWN],)


def _words(text: str) -> Iterator[str]:
    kept = "".join(map(_cleaned, text))
    # Lower case goes letter by letter: a word's last sigma is lowered like any other.
    plain = (char.lower() for char in unicodedata.normalize("NFD", kept) if unicodedata.category(char) != "Mn")
    yield from "".join(f" {char} " if _stands_alone(char) else char for char in plain).split()


def _cleaned(char: str) -> str:
    if char in "\t\n\r":
        return " "
    if char in "\0\ufffd" or unicodedata.category(char).startswith("C"):
        return ""
    return " " if char.isspace() else char


def _stands_alone(char: str) -> bool:
    code = ord(char)
    ascii_symbol = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_symbol or unicodedata.category(char).startswith("P") or _is_chinese(code)


def _is_chinese(code: int) -> bool:
    blocks = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF), (0xF900, 0xFAFF))
    return any(first <= code <= last for first, last in (*blocks, (0x2F800, 0x2FA1F)))
