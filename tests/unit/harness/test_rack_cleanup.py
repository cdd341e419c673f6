"""What a dead run left on hosts is removed over their launcher, or its record stays and the host is named."""

from __future__ import annotations

import socket
from pathlib import Path

import asyncssh
import pytest

from harness.cluster import ClusterError, RunRecord
from harness.experiment import to_toml
from harness.inventory import Inventory, InventoryHost, SshLauncher, StoragePlace
from harness.sites.rack_cleanup import remove_on_hosts


def test_a_host_that_does_not_answer_is_named_and_the_record_stays(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        host = InventoryHost("p0", "prefill", "127.0.0.1", port=bound.getsockname()[1])
        inventory = Inventory((host,), SshLauncher(key=str(key)), storage=StoragePlace(mount="/mnt/kv"))
        record = RunRecord(1, "0123abcd", 1, "/tmp/dualpath-0123abcd", to_toml(inventory))
        with pytest.raises(ClusterError) as caught:
            remove_on_hosts(record)
    said = str(caught.value)
    assert said.startswith("run 0123abcd: host p0: ")
    assert "nothing listens" in said
    assert said.endswith("; its record stays until that works")
