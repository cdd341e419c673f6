"""What a peer sends is not trusted: one exception says that it is not what this release's peers send."""

from __future__ import annotations

from typing import TypeVar

import msgspec

_T = TypeVar("_T")


class ProtocolError(ValueError):
    """The peer sent what no peer of this release sends; what it came by cannot be used any more."""


def decoded(payload: bytes | bytearray, decoder: msgspec.msgpack.Decoder[_T]) -> _T:
    """The value in ``payload``; raises `ProtocolError`, and nothing else, if there is none of that kind."""
    try:
        return decoder.decode(payload)
    except (ValueError, RecursionError) as error:  # the latter where a peer nests without end
        raise ProtocolError(str(error)) from error
