"""Texts as numbers: hashed words for `mlp`, tokens for `transformer`, bytes for `char_lstm`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ..models.wordpiece import WordPiece
from ..registry import PathText, build, rooted
from .spec import Kind


class TextEncoding(Protocol):
    """A way from texts to arrays of shape (texts, length)."""

    kind: ClassVar[Kind]
    dtype: ClassVar[type[np.generic]]

    @property
    def length(self) -> int:
        """Numbers of an encoded text."""
        ...

    @property
    def identity(self) -> str:
        """Equal identities promise equal arrays."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[Any]:
        """(texts, length) numbers that `dtype` can hold."""
        ...


@dataclass(frozen=True)
class Hashed:
    """Counts of hashed words, `length` of them, at unit norm (scikit-learn's HashingVectorizer)."""

    length: int = 2048
    kind: ClassVar[Kind] = "vector"
    dtype: ClassVar[type[np.generic]] = np.float16

    @property
    def identity(self) -> str:
        """Its text: all that the arrays depend on."""
        return repr(self)

    def encode(self, texts: Sequence[str]) -> NDArray[Any]:
        """(texts, length), rows of unit norm, or zeros for a text without a word."""
        from sklearn.feature_extraction.text import HashingVectorizer

        return HashingVectorizer(n_features=self.length, norm="l2").transform(texts).toarray()


@dataclass(frozen=True)
class Tokens:
    """WordPiece tokens by the vocab.txt in `directory`, cut or padded to `length`."""

    directory: PathText
    length: int = 64
    kind: ClassVar[Kind] = "tokens"
    dtype: ClassVar[type[np.generic]] = np.int32

    @property
    def identity(self) -> str:
        """The length and a digest of the vocabulary, wherever that lies; ValueError if it is not there."""
        return f"tokens {blake2b(self._vocabulary.read_bytes(), digest_size=8).hexdigest()} {self.length}"

    def encode(self, texts: Sequence[str]) -> NDArray[Any]:
        """int32 (texts, length), token numbers and zeros after them; ValueError if there is no vocabulary."""
        return self._pieces.batch(texts, self.length)

    @cached_property
    def _pieces(self) -> WordPiece:
        try:
            return WordPiece.load(self._vocabulary.parent)
        except ValueError as error:
            raise ValueError(f"{self._vocabulary} is no vocabulary, a token a line: {error}") from None

    @property
    def _vocabulary(self) -> Path:
        path = Path(self.directory).expanduser().absolute() / "vocab.txt"
        if not path.is_file():
            raise ValueError(f"{path} does not exist; tokens names a directory that holds a vocab.txt")
        return path


@dataclass(frozen=True)
class Characters:
    """The first `length` bytes of the text in UTF-8, numbers below 256; shorter ones begin with zeros."""

    length: int = 80
    kind: ClassVar[Kind] = "tokens"
    dtype: ClassVar[type[np.generic]] = np.int32

    @property
    def identity(self) -> str:
        """Its text: all that the arrays depend on."""
        return repr(self)

    def encode(self, texts: Sequence[str]) -> NDArray[Any]:
        """uint8 (texts, length), zeros first where a text is shorter."""
        rows = (text.encode()[: self.length].rjust(self.length, b"\0") for text in texts)
        return np.frombuffer(b"".join(rows), np.uint8).reshape(len(texts), self.length)


ENCODINGS: Mapping[str, Callable[..., TextEncoding]] = {"characters": Characters, "hashed": Hashed, "tokens": Tokens}


def rooted_text_encoding(text: str) -> str:
    """The text of an encoding, its paths made absolute."""
    return rooted(text, ENCODINGS, "text encoding")


def parse_text_encoding(text: str) -> TextEncoding:
    """The encoding that `text` names, such as "tokens('models/minilm', length=64)"; ValueError lists the known ones."""
    return build(text, ENCODINGS, "text encoding")
