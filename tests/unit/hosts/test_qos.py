"""Traffic class settings as tools print them, and a host made of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from hosts.qos import (
    PAPER_INFINIBAND,
    PAPER_ROCE,
    UnreadableError,
    find_qos,
    parse_dcb,
    parse_mlnx_qos,
    parse_opensm,
    parse_portinfo,
    parse_qdiscs,
    parse_vlarb,
)

VLARB = """\
# VLArbitration tables: Lid 2 port 1 LowCap 8 HighCap 8
# Low priority VL Arbitration Table:
VL    : |0x0 |0x1 |0x2 |0x3 |0x0 |0x0 |0x0 |0x0 |
WEIGHT: |0xC0|0xC0|0x40|0xC0|0x0 |0x0 |0x0 |0x0 |
# High priority VL Arbitration Table:
VL    : |0x0 |0x1 |0x2 |0x3 |0x0 |0x0 |0x0 |0x0 |
WEIGHT: |0xC0|0xC0|0x0 |0xC0|0x0 |0x0 |0x0 |0x0 |
"""
PORTINFO = """\
# Port info: Lid 2 port 1
Mkey:............................0x0000000000000000
VLCap:...........................VL0-7
InitType:........................0x00
VLHighLimit:.....................240
VLArbHighCap:....................8
OperVLs:.........................VL0-3
"""
MLNX_QOS = """\
DCBX mode: OS controlled
Priority trust state: dscp
dscp2prio mapping:
\tprio:0 dscp:07,06,05,04,03,02,01,00,
\tprio:5 dscp:47,46,
Cable len: 10
PFC configuration:
\tpriority    0   1   2   3   4   5   6   7
\tenabled     1   0   0   0   0   1   0   0
tc: 0 ratelimit: unlimited, tsa: ets, bw: 10%
\t priority:  0
\t priority:  1
tc: 1 ratelimit: unlimited, tsa: ets, bw: 90%
\t priority:  5
tc: 2 ratelimit: unlimited, tsa: strict
\t priority:  6
"""
ETS = """\
willing off ets-cap 8 cbs off
tc-bw 0:1 1:99 2:0 3:0 4:0 5:0 6:0 7:0
tc-tsa 0:ets 1:ets 2:strict 3:strict 4:strict 5:strict 6:strict 7:strict
prio-tc 0:0 1:1 2:2 3:3 4:4 5:5 6:6 7:7
"""


def test_vl_arbitration_reads_as_opensm_writes_it() -> None:
    found = parse_vlarb(VLARB)
    assert found == {name: PAPER_INFINIBAND[name] for name in ("qos_vlarb_low", "qos_vlarb_high")}


def test_data_lanes_and_high_limit() -> None:
    assert parse_portinfo(PORTINFO) == {"qos_max_vls": "4", "qos_high_limit": "240"}
    assert parse_portinfo("OperVLs:.........................VL0\n") == {"qos_max_vls": "1"}


def test_opensm_configuration() -> None:
    text = "# QoS\nqos TRUE\nqos_max_vls 4\n#qos_high_limit 0\nqos_vlarb_low 0:192,1:192,2:64\nm_key 0\n"
    assert parse_opensm(text) == {"qos": "TRUE", "qos_max_vls": "4", "qos_vlarb_low": "0:192,1:192,2:64"}


def test_dcb_tables() -> None:
    found = parse_dcb(ETS)
    assert found["tc-bw"].startswith("0:1 1:99 ")
    assert set(found) == {"tc-bw", "tc-tsa", "prio-tc"}
    assert parse_dcb("dscp-prio 0:0 46:5 \n") == {"dscp-prio": "0:0 46:5"}
    assert parse_dcb("pfc-cap 8 macsec-bypass off delay 0\nprio-pfc 0:on 1:off\n") == {
        "prio-pfc": "0:on 1:off"
    }


def test_mlnx_qos() -> None:
    assert parse_mlnx_qos(MLNX_QOS) == {
        "trust": "dscp",
        "dscp-prio": "07:0 06:0 05:0 04:0 03:0 02:0 01:0 00:0 47:5 46:5",
        "prio-pfc": "0:on 1:off 2:off 3:off 4:off 5:on 6:off 7:off",
        "tc-tsa": "0:ets 1:ets 2:strict",
        "tc-bw": "0:10 1:90 2:0",
        "prio-tc": "0:0 1:0 5:1 6:2",
    }


def test_queueing_disciplines() -> None:
    text = "qdisc mq 0: root \nqdisc fq_codel 0: parent :1 limit 10240p flows 1024\n"
    assert parse_qdiscs(text) == {"root": "mq", "parent :1": "fq_codel limit 10240p flows 1024"}


@pytest.mark.parametrize(
    "parse", [parse_vlarb, parse_portinfo, parse_opensm, parse_dcb, parse_mlnx_qos, parse_qdiscs]
)
def test_other_text_holds_no_setting(parse: object) -> None:
    assert callable(parse)
    assert parse("") == {}
    assert parse("something else entirely\n: | 0x\n") == {}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with an InfiniBand port, a RoCE port on eth1, and a plain eth0."""
    files = {
        "sys/class/infiniband/mlx5_0/ports/1/link_layer": "InfiniBand\n",
        "sys/class/infiniband/mlx5_0/ports/1/lid": "0x2\n",
        "sys/class/infiniband/mlx5_1/ports/1/link_layer": "Ethernet\n",
        "sys/class/infiniband/mlx5_1/ports/1/gid_attrs/ndevs/0": "eth1\n",
        "sys/class/infiniband/mlx5_1/tc/1/traffic_class": "Global tclass=184\n",
        "sys/class/net/eth0/device/vendor": "0x1af4\n",
        "sys/class/net/eth1/device/vendor": "0x15b3\n",
        "etc/opensm/opensm.conf": "qos_max_vls 2\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_all_ports_of_a_host_and_what_cannot_be_read(root: Path) -> None:
    asked: list[str] = []

    def run(command: Sequence[str]) -> str:
        asked.append(" ".join(command))
        match command[0]:
            case "smpquery":
                return VLARB if "vlarb" in command else PORTINFO
            case "dcb" if "eth1" in command:
                return ETS
        raise UnreadableError(f"{command[0]} is not installed")

    infiniband, roce, plain = find_qos(root, run)
    assert (infiniband.device, infiniband.paper) == ("mlx5_0", PAPER_INFINIBAND)
    found = {name: value for source in infiniband.sources[:2] for name, value in source.found.items()}
    assert found == PAPER_INFINIBAND
    assert infiniband.sources[2].found == {"qos_max_vls": "2"}
    assert "smpquery -C mlx5_0 -P 1 vlarb 2 1" in asked

    assert (roce.device, roce.interface, roce.paper) == ("mlx5_1", "eth1", PAPER_ROCE)
    sources = {source.name.split()[0]: source for source in roce.sources}
    assert sources["mlnx_qos"].obstacle == "mlnx_qos is not installed"
    assert [source.found for source in roce.sources][:1] == [{"traffic_class": "Global tclass=184"}]
    assert any(source.obstacle == "No such file or directory" for source in roce.sources)  # default_roce_tos

    assert (plain.device, plain.interface) == ("", "eth0")
    assert all(source.obstacle for source in plain.sources)


def test_nothing_is_ever_set(root: Path) -> None:
    def run(command: Sequence[str]) -> str:
        assert not {"set", "add", "del", "replace", "change", "flush"} & set(command)
        assert command[0] != "mlnx_qos" or list(command[1:-1]) == ["-i"]
        return ""

    assert len(find_qos(root, run)) == 3
