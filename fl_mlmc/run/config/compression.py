"""What travels: compressors up and down, and the scheme that says what is compressed."""

from functools import cached_property
from typing import Self

from pydantic import Field, field_validator, model_validator

from ...bilevel.method import is_bilevel, parse_bilevel
from ...compression import Compressor, parse
from ...own import EVERY, references
from ...schemes import Scheme, parse_scheme, resolve_scheme
from ...schemes.docofl import DoCoFL, parse_downlink
from .section import Section


class CompressionConfig(Section):
    """Compressors of both directions, and the schemes that use them."""

    compressor: str = Field("Identity()", description="how clients compress their updates")
    downlink_compressor: str = Field(
        "Identity()", description="how the server compresses the model that it sends; it must be unbiased"
    )

    @field_validator("compressor", "downlink_compressor")
    @classmethod
    def _is_compressor(cls, text: str) -> str:
        compressor = parse(text, EVERY)
        return text if references(text) else repr(compressor)  # one of the user's own is told by where it lies

    downlink_scheme: str = Field(
        "direct",
        description="direct sends the model; docofl(ECUQ(bits=4), every=10, lead=2) sends anchors and corrections",
    )

    @field_validator("downlink_scheme")
    @classmethod
    def _is_downlink_scheme(cls, text: str) -> str:
        parse_downlink(text)
        return text

    scheme: str = Field(
        "direct", description="what clients send, and what the server makes of it; rabo and rafbo are for bilevel tasks"
    )

    @field_validator("scheme")
    @classmethod
    def _is_scheme(cls, text: str) -> str:
        if not is_bilevel(text):
            parse_scheme(text)
            return text
        scheme = parse_bilevel(text).uploads
        if scheme.moves_itself or scheme.takes_minibatches or scheme.hears_back or scheme.num_messages > 1:
            raise ValueError(
                f"uploads of a bilevel method is a scheme that sends what its client found, such as 'ef21' or "
                f"'diana'; {scheme.name} asks for gradients of its own, or sends more than one message"
            )
        return text

    @model_validator(mode="after")
    def _broadcast_is_unbiased(self) -> Self:
        if not (self.downlink.is_unbiased or self.downlink_anchors):
            raise ValueError(
                f"downlink-compressor {self.downlink!r} is biased: clients would train another model than the "
                "server's, and nothing corrects that. Take an unbiased one such as QSGD(levels=127) or Natural(), or "
                "downlink-scheme = 'docofl'"
            )
        return self

    @cached_property
    def uplink(self) -> Compressor:
        """The compressor of client updates, parsed."""
        return parse(self.compressor, EVERY)

    @cached_property
    def downlink(self) -> Compressor:
        """The compressor of the broadcast, parsed."""
        return parse(self.downlink_compressor, EVERY)

    @cached_property
    def downlink_anchors(self) -> DoCoFL | None:
        """How anchors are made; None where the broadcast does without."""
        return parse_downlink(self.downlink_scheme)

    @property
    def message_scheme(self) -> Scheme:
        """The rule by which updates travel, options open as the text leaves them."""
        return parse_scheme(self._message_scheme)

    def resolved_scheme(self, size: int, num_clients: int) -> Scheme:
        """The rule for a model of `size` coordinates; ValueError if it does not admit the compressor."""
        return resolve_scheme(self._message_scheme, self.uplink, size, num_clients)

    @property
    def _message_scheme(self) -> str:
        # RABO and RAFBO say what an update is; how it travels is their option.
        return repr(parse_bilevel(self.scheme).uploads) if is_bilevel(self.scheme) else self.scheme
