"""Whose host keys are trusted: known_hosts files (sshd(8)), read once. There is no way around them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import asyncssh

from harness.host_error import HostError

_DEFAULT_FILES = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
_SSH_PORT = 22
_ECDSA = tuple(f"ecdsa-sha2-nistp{bits}" for bits in (256, 384, 521))
_KINDS = ("ssh-ed25519", *_ECDSA, "rsa-sha2-512", "rsa-sha2-256")


class KnownHosts:
    """The host keys in ``path``, or in the user's and the system's files where that is empty.

    Raises HostError for a file that cannot be read; of the default ones, any may be missing.
    """

    def __init__(self, path: str) -> None:
        expected = [Path(name).expanduser() for name in ([path] if path else _DEFAULT_FILES)]
        self._files = [file for file in expected if path or file.exists()]
        self._add_to = shlex.quote(str(expected[0]))
        try:
            self.entries = asyncssh.read_known_hosts([str(file) for file in self._files])
        except OSError as error:
            raise HostError(
                "control",
                f"launcher.known_hosts: {error.filename}: cannot be read: {error.strerror}; fix: ssh-keyscan "
                f"HOST >> {self._add_to} (and compare with the host's own), or correct launcher.known_hosts",
            ) from error
        except ValueError as error:
            raise HostError("control", f"cannot read the known hosts: {error}") from error

    def kinds(self, address: str, port: int) -> list[str]:
        """The kinds of host key to ask for, those first of which one is known: a host has several."""
        keys, certified = self._matched(address, port)
        known = [algorithm.decode() for key in keys for algorithm in key.sig_algorithms]
        kinds = [kind for kind in known if kind in _KINDS] + [kind for kind in _KINDS if kind not in known]
        return [f"{kind}-cert-v01@openssh.com" for kind in _KINDS if certified] + kinds

    def why_refused(self, address: str, port: int, key: asyncssh.SSHKey) -> str:
        """Why a host's key is not taken for that of ``address``, and what to do."""
        found = _in_words(key)
        if expected := self._matched(address, port)[0]:
            return self._changed(address, port, found, expected)
        line = f"{_name(address, port)} {key.export_public_key().decode().strip()}"
        return (
            f"its host key is not known: {found}; fix: if that is what `ssh-keygen -lf "
            f"/etc/ssh/ssh_host_{_file_kind(key)}_key.pub` says on the host: "
            f"echo {shlex.quote(line)} >> {self._add_to}"
        )

    def _matched(self, address: str, port: int) -> tuple[Sequence[asyncssh.SSHKey], bool]:
        """The keys known for it, and whether there are authorities for it, too."""
        found = asyncssh.match_known_hosts(self.entries, address, "", port if port != _SSH_PORT else None)
        return found[0], bool(found[1])

    def _changed(self, address: str, port: int, found: str, expected: Sequence[asyncssh.SSHKey]) -> str:
        name = shlex.quote(_name(address, port))
        forget = "; ".join(f"ssh-keygen -R {name} -f {shlex.quote(str(file))}" for file in self._files)
        return (
            f"its host key is another than known: found {found}, expected "
            f"{' or '.join(map(_in_words, expected))}: somebody may be in between; fix: if the host was "
            f"installed anew: {forget}; and try again"
        )


def _in_words(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


def _name(address: str, port: int) -> str:
    """As known_hosts has it."""
    return address if port == _SSH_PORT else f"[{address}]:{port}"


def _file_kind(key: asyncssh.SSHKey) -> str:
    """As in the name of the file where sshd has a key of that kind."""
    algorithm = key.get_algorithm()
    return next((kind for kind in ("ed25519", "ecdsa") if kind in algorithm), "rsa")
