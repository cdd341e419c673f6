"""Rails: the compute NICs of hosts, of each the ones of the same place in a fabric's order."""

from __future__ import annotations

from collections.abc import Sequence


def share(number: int, of: int, among: int) -> int:
    """Which of ``among`` the ``number``-th one of ``of`` has: neighbours have the same, as GPUs and NICs are
    numbered along a host's sockets."""
    return number * among // of


def connected(here: int, there: int) -> Sequence[tuple[int, int]]:
    """Which of ``here`` rails of a host are connected with which of a peer's ``there``, all in use."""
    most = max(here, there)
    return [(share(number, most, here), share(number, most, there)) for number in range(most)]
