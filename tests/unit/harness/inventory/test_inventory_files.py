"""Inventories whose file says what no rack can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.experiment import ExperimentError
from harness.inventory import load_inventory

RACK = """
[launcher]
kind = "ssh"
[storage]
mount = "/mnt/kv"
[[hosts]]
name = "p0"
role = "prefill"
storage_nic = { name = "eth1" }
compute_nics = [{ name = "eth2" }]
gpus = ["0", "1"]
[[hosts]]
name = "d0"
role = "decode"
storage_nic = { name = "eth1" }
compute_nics = [{ name = "eth2" }]
"""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ('[{ name = "eth2" }]\ngpus', '[{ name = "eth2" }, { name = "eth2", numa = 1 }]\ngpus'),
            "hosts[0] (p0).compute_nics: found 'eth2' twice, expected each once",
        ),
        (('"0", "1"', '"1", "0", "1", "1"'), "hosts[0] (p0).gpus: found '1' 3 times, expected each once"),
        (('"0", "1"', '"GPU-a", "gpu-A"'), "hosts[0] (p0).gpus: found 'gpu-a' twice, expected each once"),
    ],
)
def test_what_is_listed_twice(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    file = tmp_path / "rack.toml"
    file.write_text(RACK)
    load_inventory(file)
    file.write_text(RACK.replace(*change, 1))
    with pytest.raises(ExperimentError) as error:
        load_inventory(file)
    assert str(error.value) == f"{file}: {expected}"
