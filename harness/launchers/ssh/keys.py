"""What users are known by: private keys from files and from the agent, read once for all hosts."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import dataclass
from pathlib import Path

import asyncssh

_DEFAULT_FILES = tuple(f"~/.ssh/{name}" for name in ("id_ed25519", "id_ecdsa", "id_rsa"))


class NoKeyError(Exception):
    """There is no key to show: why, and what to do about it."""


@dataclass(frozen=True)
class Offer:
    """Key pairs to try, in order, and what a person calls them."""

    pairs: tuple[asyncssh.SSHKeyPair, ...]
    names: tuple[str, ...]

    def own(self) -> list[asyncssh.SSHKeyPair]:
        """The pairs for one connection, which notes in them what it agrees on with its server."""
        return [copy.copy(pair) for pair in self.pairs]


class UserKeys:
    """Keys by the file's name; '' is for the agent's and the user's default ones."""

    def __init__(self) -> None:
        self._offers: dict[str, Offer] = {}
        self._agent: asyncssh.SSHAgentClient | None = None
        self._reading = asyncio.Lock()

    async def offer(self, path: str) -> Offer:
        """The key in a file, or all there are. Raises NoKeyError where there is none that can be used."""
        async with self._reading:
            if path not in self._offers:
                self._offers[path] = await (self._of_file(path) if path else self._of_user())
            return self._offers[path]

    def close(self) -> None:
        """Let go of the agent."""
        if self._agent is not None:
            self._agent.close()

    async def _of_file(self, path: str) -> Offer:
        if pairs := _read(path):
            return Offer(pairs, (path,))
        # Behind a passphrase, which nobody is here to type: then the agent has to have it.
        wanted = _public_data(f"{path}.pub")
        held = tuple(pair for pair in await self._held() if pair.key_public_data == wanted)
        if not held:
            raise NoKeyError(
                f"key {path} has a passphrase and is not in the agent; fix: ssh-add {path}, in a session "
                "with SSH_AUTH_SOCK"
            )
        return Offer(held, (f"{path} (in the agent)",))

    async def _of_user(self) -> Offer:
        pairs = list(await self._held())
        names = [f"{pair.get_comment()} (in the agent)" for pair in pairs]
        for path in filter(_exists, _DEFAULT_FILES):
            known = {pair.key_public_data for pair in pairs}
            found = [pair for pair in _read(path) if pair.key_public_data not in known]
            pairs += found
            names += [path] if found else []
        if not pairs:
            raise NoKeyError(
                f"no key without a passphrase in {', '.join(_DEFAULT_FILES)}, none in an agent; fix: ssh-add "
                "one, or name one as 'key' in the inventory"
            )
        return Offer(tuple(pairs), tuple(names))

    async def _held(self) -> tuple[asyncssh.SSHKeyPair, ...]:
        """What the agent at SSH_AUTH_SOCK holds; nothing, where none answers."""
        try:
            if self._agent is None:
                self._agent = await asyncssh.connect_agent()
            return tuple(await self._agent.get_keys())
        except (OSError, ValueError):
            return ()


def _exists(path: str) -> bool:
    return Path(path).expanduser().exists()


def _read(path: str) -> tuple[asyncssh.SSHKeyPair, ...]:
    """The key in a file, before it its certificate where there is one; nothing if it has a passphrase."""
    try:
        return tuple(asyncssh.load_keypairs(str(Path(path).expanduser()), ignore_encrypted=True))
    except (OSError, asyncssh.KeyImportError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise NoKeyError(
            f"cannot read key {path}: {reason}; fix: ssh-keygen makes one, ssh-copy-id brings it to hosts, "
            "or correct 'key' in the inventory"
        ) from error


def _public_data(path: str) -> bytes:
    try:
        return asyncssh.read_public_key(Path(path).expanduser()).public_data
    except (OSError, asyncssh.KeyImportError) as error:
        raise NoKeyError(
            f"cannot read {path}, to know in the agent the key that has a passphrase: {error}"
        ) from error
