"""What a run takes of a data set that is not arrays yet."""

from dataclasses import dataclass

from .spec import Targets
from .texts import TextEncoding


@dataclass(frozen=True)
class Wanted:
    """Targets of a kind, from some columns, beside features from others. Equal identities promise equal arrays."""

    encoding: TextEncoding
    targets: Targets = "classes"
    target_columns: tuple[str, ...] = ()
    """Empty: the one that is called label, target or the like."""
    feature_columns: tuple[str, ...] = ()
    """Empty: images, or texts, or else all numbers."""
    owner_column: str = ""
    """The column of `by:COLUMN`, which says whose a row is and is no feature; empty: there is none."""
    test_share: float = 0.0
    """Of the rows, where there is no test split."""

    @property
    def identity(self) -> str:
        """All that arrays depend on beside the set itself, as text."""
        chosen = (self.targets, self.target_columns, self.feature_columns, self.owner_column, self.test_share)
        usual = ("classes", (), (), "", 0.0)
        return self.encoding.identity + ("" if chosen == usual else f" {chosen!r}")
