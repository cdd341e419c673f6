"""Finding the port that belongs to a NIC, in a copy of what the kernel shows of RDMA devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from hosts.config import VerbsConfig
from hosts.transport.verbs.port import PortError, find_port

NULL = "0000:0000:0000:0000:0000:0000:0000:0000"
LINK_LOCAL = "fe80:0000:0000:0000:5054:00ff:fe12:3456"
MAPPED = "0000:0000:0000:0000:0000:ffff:0a4f:000a"  # 10.79.0.10


def device(
    sysfs: Path,
    name: str,
    gids: dict[int, tuple[str, str]],
    state: str = "4: ACTIVE",
    port: int = 1,
    link_layer: str = "Ethernet",
) -> None:
    folder = sysfs / name / "ports" / str(port)
    (folder / "gids").mkdir(parents=True)
    (folder / "gid_attrs" / "types").mkdir(parents=True)
    for index in range(4):
        gid, kind = gids.get(index, (NULL, ""))
        (folder / "gids" / str(index)).write_text(gid + "\n")
        (folder / "gid_attrs" / "types" / str(index)).write_text(kind + "\n")
    for file, text in (("state", state), ("lid", "0x0"), ("link_layer", link_layer)):
        (folder / file).write_text(text + "\n")


def test_by_address_and_version_2_before_version_1(tmp_path: Path) -> None:
    device(tmp_path, "mlx5_0", {0: (LINK_LOCAL, "RoCE v2")})
    gids = {0: (LINK_LOCAL, "IB/RoCE v1"), 1: (LINK_LOCAL, "RoCE v2")}
    device(tmp_path, "mlx5_1", {**gids, 2: (MAPPED, "IB/RoCE v1"), 3: (MAPPED, "RoCE v2")})
    port = find_port("10.79.0.10", VerbsConfig(), tmp_path)
    assert (port.device, port.number, port.gid_index, port.gid) == ("mlx5_1", 1, 3, MAPPED)
    assert port.link_layer == "Ethernet"


def test_by_name_whatever_the_address(tmp_path: Path) -> None:
    device(tmp_path, "mlx5_0", {0: (LINK_LOCAL, "RoCE v2"), 1: (MAPPED, "RoCE v2")}, port=2)
    assert find_port("192.0.2.1", VerbsConfig(device="mlx5_0", port=2), tmp_path).gid_index == 1
    chosen = VerbsConfig(device="mlx5_0", port=2, gid_index=0)
    assert find_port("192.0.2.1", chosen, tmp_path).gid == LINK_LOCAL


@pytest.mark.parametrize(
    ("address", "config", "said"),
    [
        (
            "10.79.0.11",
            VerbsConfig(),
            r"no RDMA device has the address 10\.79\.0\.11 .*found rxe0 port 1 \(GID 1",
        ),
        ("10.79.0.10", VerbsConfig(device="rxe7"), r"rxe7 port 1: not there; found rxe0 port 1"),
        ("10.79.0.10", VerbsConfig(device="rxe0", port=3), r"rxe0 port 3: not there; found rxe0 port 1"),
        (
            "10.79.0.10",
            VerbsConfig(device="rxe0", gid_index=3),
            r"GID index 3 is empty; found GID 1: .*0a4f:000a",
        ),
    ],
)
def test_what_is_not_there_is_said_with_what_is(
    tmp_path: Path, address: str, config: VerbsConfig, said: str
) -> None:
    device(tmp_path, "rxe0", {1: (MAPPED, "RoCE v2")})
    with pytest.raises(PortError, match=said):
        find_port(address, config, tmp_path)


def test_a_port_that_is_down(tmp_path: Path) -> None:
    device(tmp_path, "rxe0", {1: (MAPPED, "RoCE v2")}, state="1: DOWN")
    with pytest.raises(PortError, match=r"rxe0 port 1: found state 1: DOWN, expected ACTIVE; check cable"):
        find_port("10.79.0.10", VerbsConfig(), tmp_path)


def test_a_host_without_rdma(tmp_path: Path) -> None:
    with pytest.raises(PortError, match="this host has no RDMA device"):
        find_port("10.79.0.10", VerbsConfig(), tmp_path)
