"""The same on many hosts at once, and one error for all that failed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from harness.host_error import HostError

_T = TypeVar("_T")


async def on_all(hosts: Sequence[str], call: Callable[[str], Awaitable[_T]]) -> dict[str, _T]:
    """The call's results by host; once all have ended, one HostError about every host that failed."""
    results = await asyncio.gather(*(call(host) for host in hosts), return_exceptions=True)
    answers: dict[str, _T] = {}
    errors: list[HostError] = []
    for host, result in zip(hosts, results, strict=True):
        if isinstance(result, HostError):
            errors.append(result)
        elif isinstance(result, BaseException):
            raise result
        else:
            answers[host] = result
    raise_together(errors)
    return answers


def raise_together(errors: Sequence[HostError]) -> None:
    """Raise the errors, if any, as the first host's, hosts with the same reason in one breath."""
    hosts: dict[str, list[str]] = {}
    for error in errors:
        hosts.setdefault(error.reason, []).append(error.host)
    if hosts:
        (_, first), *others = ((same[0], _reason(reason, same)) for reason, same in hosts.items())
        raise HostError(
            errors[0].host, "; ".join([first, *(f"host {host}: {text}" for host, text in others)])
        )


def _reason(reason: str, hosts: Sequence[str]) -> str:
    return reason if len(hosts) == 1 else f"{reason} (the same on {', '.join(hosts[1:])})"
