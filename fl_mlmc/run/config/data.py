"""Which examples a run trains on, and who owns them."""

from pydantic import Field, field_validator

from ...data.partitions import parse_partition
from ...data.texts import parse_text_encoding
from .section import Section


class DataConfig(Section):
    """The data set and how its rows are shared out."""

    dataset: str = Field("digits", min_length=1, description="a set by name, or a folder of images")
    data_dir: str = Field("", description="where the set's own files lie; empty: it is fetched or shipped")
    text: str = Field("hashed", description="how texts become numbers: hashed, tokens('DIRECTORY') or characters")
    partition: str = Field("iid", description="who owns which rows: iid, dirichlet:ALPHA, shards:COUNT or by:COLUMN")

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
