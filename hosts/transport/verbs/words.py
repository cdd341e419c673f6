"""Work completion statuses in words (ibv_poll_cq(3), ``enum ibv_wc_status``), with what usually causes
them."""

from __future__ import annotations

from hosts.transport.verbs.port import Port, port_state

SUCCESS = 0
FLUSHED = 5
_RETRY_EXCEEDED = 12

_STATUS = {
    1: "local length error: a work request does not fit the queue pair",
    2: "local QP operation error: the queue pair is in a wrong state",
    4: "local protection error: the local region is no longer registered",
    FLUSHED: "flushed: an earlier operation failed",
    6: "memory window bind error",
    7: "bad response: the peer answered with what does not belong to this connection",
    8: "local access error",
    9: "remote invalid request: the peer's queue pair does not take this operation",
    10: "remote access error: the peer offers no such region (any more), or not all of these bytes",
    11: "remote operation error: the peer's device could not complete it",
    _RETRY_EXCEEDED: "transport retry counter exceeded: no answer from the peer's device",
    13: "receiver not ready: the peer takes no messages",
    19: "fatal error of the device",
    20: "response timeout",
    21: "general error",
}


def status_in_words(status: int, port: Port) -> str:
    """What happened, on which device, and what to look at."""
    words = _STATUS.get(status, "unknown status")
    if status == _RETRY_EXCEEDED:
        words += (
            f" (is its host up? {port} here is {port_state(port) or 'gone'}; a path MTU above that of a "
            "switch on the way has the same effect)"
        )
    return f"{words} [status {status}, {port}]"
