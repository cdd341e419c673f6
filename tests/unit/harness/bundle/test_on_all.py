"""One call on many hosts, and one error for all that failed."""

from __future__ import annotations

import asyncio

import pytest

from harness.bundle.on_all import on_all
from harness.host_error import HostError


async def fails_on_b_c_e(host: str) -> str:
    if host in "bc":
        raise HostError(host, "no room")
    if host == "e":
        raise HostError(host, "not reachable")
    return host.upper()


def test_results_by_host() -> None:
    assert asyncio.run(on_all("ad", fails_on_b_c_e)) == {"a": "A", "d": "D"}


def test_every_host_that_failed_is_named() -> None:
    with pytest.raises(HostError) as error:
        asyncio.run(on_all("abcde", fails_on_b_c_e))
    assert str(error.value) == "host b: no room (the same on c); host e: not reachable"
    assert error.value.host == "b"


def test_an_error_of_another_kind_is_not_a_hosts() -> None:
    async def wrong(host: str) -> None:
        raise ValueError(host)

    with pytest.raises(ValueError, match="a"):
        asyncio.run(on_all("ab", wrong))
