"""Which examples a run trains on, and who owns them."""

from pydantic import Field, field_validator

from ...data.partitions import parse_partition
from ...data.texts import parse_text_encoding
from ...own import find, references
from .section import Section


class DataConfig(Section):
    """The data set and how its rows are shared out."""

    dataset: str = Field(
        "digits", min_length=1, description="a data set by name, or a file, folder or function of your own"
    )

    @field_validator("dataset")
    @classmethod
    def _is_there(cls, text: str) -> str:
        for reference in references(text):
            find(reference.where)  # the server alone calls it: a device need not have what it imports
        return text

    data_dir: str = Field(
        "", description="where the files of the set lie; empty: it is fetched, or comes with a library"
    )
    text: str = Field("hashed", description="how texts become numbers: hashed, tokens('DIRECTORY') or characters")
    features: str = Field("", description="columns of a table to train on, such as age,height; empty: all that fit")
    targets: str = Field(
        "", description="columns that the model is to predict; empty: the one called label, target or the like"
    )
    test_share: float = Field(
        0.0, ge=0, lt=1, description="share of the rows to test on, for a set without a test split"
    )
    evaluate_clients: float = Field(
        0.0, ge=0, lt=1, description="share of its examples on which a client evaluates and never trains"
    )
    partition: str = Field(
        "iid", description="which client gets which rows: iid, dirichlet:ALPHA, shards:COUNT or by:COLUMN"
    )

    @field_validator("text")
    @classmethod
    def _is_text_encoding(cls, text: str) -> str:
        parse_text_encoding(text)
        return text

    @field_validator("partition")
    @classmethod
    def _is_partition(cls, text: str) -> str:
        parse_partition(text)
        return text

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """The names in `features`."""
        return _names(self.features)

    @property
    def target_columns(self) -> tuple[str, ...]:
        """The names in `targets`."""
        return _names(self.targets)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text.strip() else ()
