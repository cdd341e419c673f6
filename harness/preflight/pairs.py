"""Which hosts look for which over the compute network: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

PEERS = 8
"""As many as each host looks for, unless it takes more for every host to be looked for."""


def chosen_peers(prefill: Sequence[str], decode: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Those that each host is to look for, hosts of the other role; the same ones for the same hosts.

    All of them on a small rack. On a large one every host looks and is looked for, in a number of pairs that
    grows with the hosts and not with their square: at most ``PEERS + 1`` for each host.
    """
    return _looking(prefill, decode) | _looking(decode, prefill)


def _looking(hosts: Sequence[str], others: Sequence[str]) -> dict[str, list[str]]:
    """Each host for a row of ``others``, evenly spread: the rows together are all of them."""
    if not hosts:
        return {}
    count = min(len(others), max(PEERS, -(-len(others) // len(hosts))))
    starts = (number * len(others) // len(hosts) for number in range(len(hosts)))
    return {
        host: [others[(start + step) % len(others)] for step in range(count)]
        for host, start in zip(hosts, starts, strict=True)
    }
