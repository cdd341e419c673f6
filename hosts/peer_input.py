"""What a peer sends is not trusted: one exception says that it is not what this release's peers send."""

from __future__ import annotations


class ProtocolError(ValueError):
    """The peer sent what no peer of this release sends; what it came by cannot be used any more."""
