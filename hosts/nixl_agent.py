"""Agents of NIXL (https://github.com/ai-dynamo/nixl): the library's objects owned in one place, its errors in
words, and nothing left of an agent that was closed.

No progress thread of NIXL's: an agent moves bytes only inside its owner's calls, which have to poll while
something is outstanding (every `POLL_S`). So no call waits, and a closed agent touches no memory any more.

What to transfer is named by rows of [address, length, device], unsigned 64-bit integers. For host memory NIXL
leaves the device's meaning to its user: here it is a number of the registration's own, so that rows made for
one that is gone match none that came after it at the same address. For a GPU's memory it is the GPU, for
files the file descriptor, and the address an offset.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

INSTALL = "pip install --no-deps nixl-cu12==1.5.1"
"""It asks for torch, gigabytes of it, and uses that for nothing that is done here."""
POLL_S = 0.0002

Rows = NDArray[np.uint64]
MemoryKind = Literal["DRAM", "VRAM", "FILE"]
Operation = Literal["READ", "WRITE"]
_T = TypeVar("_T")


class NixlError(Exception):
    """NIXL is not there, or refused something: what, and its own name for why."""


def require_nixl() -> Any:
    """The library; `NixlError` says how to install it."""
    raise_exceptions = logging.raiseExceptions
    try:
        import nixl_cu12
    except ImportError as error:
        raise NixlError(f"NIXL is not installed here ({error}): {INSTALL}") from error
    finally:
        logging.raiseExceptions = raise_exceptions  # which importing NIXL changes, for the whole process
    logging.getLogger("nixl").setLevel(logging.WARNING)  # it reports every agent on standard output
    return nixl_cu12


class Transfer:
    """A transfer that was posted. Its owner polls it until it is done, then releases it."""

    def __init__(self, agent: NixlAgent, handle: Any) -> None:
        self._agent, self._handle = agent, handle

    def begin(self) -> None:
        """Post it."""
        _expect_no_error(_checked("post", lambda: self._agent.library.transfer(self._handle)))

    def done(self) -> bool:
        """Whether it is over, after moving on whatever can be moved; `NixlError` if it failed."""
        state = _checked("transfer", lambda: self._agent.library.check_xfer_state(self._handle))
        return _expect_no_error(state) == "DONE"

    def release(self) -> None:
        """Give it back. Of one that is not done, only closing the agent ends the transfer of bytes."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._agent.transfers.discard(self)
            with suppress(NixlError):
                _checked("release", handle.release)


class NixlAgent:
    """An agent with one backend, such as UCX or POSIX. Every method raises `NixlError` where NIXL does."""

    def __init__(self, backend: str, parameters: Mapping[str, str]) -> None:
        nixl = require_nixl()
        self.name = secrets.token_hex(8)
        self.backend = backend
        self.transfers: set[Transfer] = set()
        settings = nixl.nixl_agent_config(enable_prog_thread=False, backends=[])
        self.library = _checked("agent", lambda: nixl.nixl_agent(self.name, settings))
        try:
            _checked(f"backend {backend}", lambda: self.library.create_backend(backend, dict(parameters)))
        except NixlError:
            self.close()
            raise

    def register(self, kind: MemoryKind, rows: Rows) -> Any:
        """Let transfers use what ``rows`` name, until `deregister` of the result."""
        return _checked("register", lambda: self.library.register_memory(rows, kind, [self.backend]))

    def deregister(self, registration: Any) -> None:
        """See `register`."""
        _checked("deregister", lambda: self.library.deregister_memory(registration, [self.backend]))

    def description(self, registration: Any = None) -> bytes:
        """What a peer loads to transfer from and to a registration; of none: to reach this agent."""
        library = self.library
        if registration is None:
            return _checked("describe", lambda: bytes(library.get_agent_metadata()))
        return _checked(
            "describe", lambda: bytes(library.get_partial_agent_metadata(registration, False, [self.backend]))
        )

    def load(self, description: bytes) -> str:
        """Learn from a peer's description; the peer's name."""
        name = _checked("load", lambda: self.library.add_remote_agent(description))
        return name.decode() if isinstance(name, bytes) else str(name)

    def post(
        self,
        operation: Operation,
        local: Rows,
        remote: Rows,
        peer: str,
        *,
        message: bytes = b"",
        local_kind: MemoryKind = "DRAM",
        remote_kind: MemoryKind = "DRAM",
    ) -> Transfer:
        """Begin a transfer of row after row; ``message`` reaches the peer after its bytes."""
        library = self.library
        transfer = Transfer(
            self,
            _checked(
                operation.lower(),
                lambda: library.initialize_xfer(
                    operation,
                    library.get_xfer_descs(local, local_kind),
                    library.get_xfer_descs(remote, remote_kind),
                    peer,
                    message,
                    [self.backend],
                ),
            ),
        )
        self.transfers.add(transfer)
        try:
            transfer.begin()
        except NixlError:
            transfer.release()
            raise
        return transfer

    def send(self, peer: str, message: bytes) -> None:
        """Send a message that belongs to no transfer. It leaves while this agent is polled."""
        _checked("notify", lambda: self.library.send_notif(peer, message))

    def messages(self) -> list[bytes]:
        """What peers sent, in their order, after moving on whatever can be moved."""
        received = _checked("poll", lambda: self.library.get_new_notifs([self.backend]))
        return [message for messages in received.values() for message in messages]

    def close(self) -> None:
        """Give everything back: transfers, registrations, connections. A second call finds nothing."""
        for transfer in tuple(self.transfers):
            transfer.release()
        self.library.agent = None  # the only reference that is left to what the library made


def rows(*entries: tuple[int, int, int]) -> Rows:
    """Rows of (address, length, device)."""
    return np.array(entries, np.uint64)


def _expect_no_error(state: str) -> str:
    if state == "ERR":
        raise NixlError("the transfer failed")
    return state


def _checked(what: str, call: Callable[[], _T]) -> _T:
    """``call()``, with `NixlError` for any error: raised outside of its handling, so that no traceback keeps
    the library's objects."""
    try:
        return call()
    except Exception as error:
        reason = f"{what}: {error or type(error).__name__}"
    raise NixlError(reason)
