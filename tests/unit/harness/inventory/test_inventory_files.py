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
            ('[{ name = "eth2" }]', '["eth2"]'),
            "hosts[0].compute_nics[0]: found 'eth2', expected a table such as { name = \"eth2\" }",
        ),
        (('"0", "1"', "0, 1"), 'hosts[0].gpus[0]: found 0, expected text: "0"'),
        (
            ('[launcher]\nkind = "ssh"', 'launcher = "ssh"'),
            "launcher: found 'ssh', expected a table such as { kind = \"ssh\" }",
        ),
    ],
)
def test_what_is_not_written_as_expected_is_shown_so(
    tmp_path: Path, change: tuple[str, str], expected: str
) -> None:
    file = tmp_path / "rack.toml"
    file.write_text(RACK.replace(*change, 1))
    with pytest.raises(ExperimentError) as error:
        load_inventory(file)
    assert str(error.value) == f"{file}: {expected}"


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
