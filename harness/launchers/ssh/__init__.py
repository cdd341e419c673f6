"""Hosts behind sshd, one connection each (asyncssh)."""

from __future__ import annotations

from harness.inventory import Inventory, SshLauncher
from harness.launchers.ssh.connections import Connections
from harness.launchers.ssh.launcher import SshHosts

__all__ = ["open_ssh"]


def open_ssh(inventory: Inventory) -> SshHosts:
    """The launcher on an inventory's hosts; each is connected to when it is first needed.

    Raises HostError for a launcher section that no host can be reached with.
    """
    section = inventory.launcher
    assert isinstance(section, SshLauncher), "the registry chooses by it"
    return SshHosts(inventory.hosts, Connections(section))
