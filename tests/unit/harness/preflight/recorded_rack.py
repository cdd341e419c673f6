"""A rack as its hosts describe it when nothing is wrong: one prefill host, two decode hosts, RoCE, a server.

What a probe printed on such hosts, put into types; tests change what they are about.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from harness.inventory import ComputeNic, Inventory, InventoryHost, SshLauncher, StorageNic, StoragePlace
from harness.preflight import Finding, HostFacts, Needs, findings
from harness.preflight.facts import (
    Address,
    Directory,
    Gid,
    Gpu,
    Gpus,
    Interface,
    Load,
    Lock,
    Machine,
    Management,
    Memory,
    Network,
    NicReach,
    Peer,
    Python,
    Rdma,
    RdmaPort,
    Reach,
    Route,
    Store,
    Tools,
)
from harness.preflight.judgement import Answer

NUMBERS = {"p0": 1, "d0": 2, "d1": 3}
URL = "http://10.1.0.9:8080/kv"
NEEDS = Needs(
    transport="verbs",
    buffer_pages="transparent",
    buffer_bytes={"prefill": 120 * 10**9, "decode": 120 * 10**9},
    cache="direct",
    storage_bytes=2 * 10**12,
)


def inventory(**changes: Any) -> Inventory:
    """Changes are keys of the inventory's."""
    rack = Inventory(
        name="rack",
        launcher=SshLauncher(),
        storage=StoragePlace(url=URL),
        hosts=tuple(
            InventoryHost(
                name=name,
                role="prefill" if name == "p0" else "decode",
                address=f"10.0.0.{number}",
                node=name,
                storage_nic=StorageNic(name="eth1", gbit_per_s=400.0),
                compute_nics=(ComputeNic(name="eth2", numa=0),),
                gpus=("0000:17:00.0",),
            )
            for name, number in NUMBERS.items()
        ),
    )
    return replace(rack, **changes)


def with_hosts(rack: Inventory, **changes: Any) -> Inventory:
    """The same change of every host."""
    return replace(rack, hosts=tuple(replace(host, **changes) for host in rack.hosts))


def interface(name: str, address: str, **changes: Any) -> Interface:
    known = Interface(
        name=name,
        state="UP",
        up=True,
        mtu=9000,
        gbit_per_s=400.0,
        driver="mlx5_core",
        virtual=False,
        numa=0,
        addresses=(Address(address, 24), Address("fe80::1", 64)),
        rx_bytes_per_s=0.0,
        tx_bytes_per_s=0.0,
    )
    return replace(known, **changes)


def port(number: int, **changes: Any) -> RdmaPort:
    known = RdmaPort(
        device="mlx5_2",
        port=1,
        state="ACTIVE",
        gbit_per_s=400.0,
        link_layer="Ethernet",
        interface="eth2",
        numa=0,
        gids=(
            Gid(0, "fe80:0000:0000:0000:0000:0000:0000:0001", "IB/RoCE v1"),
            Gid(2, f"0000:0000:0000:0000:0000:ffff:0a02:000{number}", "IB/RoCE v1"),
            Gid(3, f"0000:0000:0000:0000:0000:ffff:0a02:000{number}", "RoCE v2"),
        ),
        rx_bytes_per_s=0.0,
        tx_bytes_per_s=0.0,
    )
    return replace(known, **changes)


def peer(name: str, **changes: Any) -> Peer:
    address = f"10.2.0.{NUMBERS[name]}"
    return replace(Peer(name, address, Route(device="eth2", address=address), "", ""), **changes)


def facts(name: str, **changes: Any) -> HostFacts:
    """Those of a host; changes are whole parts."""
    number = NUMBERS[name]
    known = HostFacts(
        machine=Machine(
            hostname=f"gpu0{number}",
            kernel="6.8.0-45-generic",
            os="Ubuntu 24.04.1 LTS",
            machine="x86_64",
            user="alice",
            uid=1000,
            home="/home/alice",
            machine_id=f"{number:032x}",
            boot_id=f"boot-{number}",
            network_namespace=4026531840,
        ),
        python=Python(
            version="3.12.3", executable="/usr/bin/python3", platform="linux-x86_64", libc="glibc 2.39"
        ),
        directory=Directory(
            path="/home/alice/.cache/dualpath", existing="/home/alice", writable=True, free_bytes=50 * 10**9
        ),
        memory=Memory(
            total_bytes=10**12,
            available_bytes=9 * 10**11,
            memlock_soft_bytes=-1,
            memlock_hard_bytes=-1,
            huge_page_bytes=2 * 2**20,
            transparent_huge_pages="madvise",
        ),
        load=Load(cpus=128, usable_cpus=128, load_1_min=0.1, busy=0.01),
        tools=Tools(pyverbs_package="50.0-2build2", libibverbs_package="50.0-2build2", fio="fio-3.36"),
        lock=Lock(),
        network=Network(
            interfaces=(
                interface("lo", "127.0.0.1", state="UNKNOWN", gbit_per_s=0.0, driver="", virtual=True),
                interface("eth0", f"10.0.0.{number}", gbit_per_s=25.0, mtu=1500),
                interface("eth1", f"10.1.0.{number}"),
                interface("eth2", f"10.2.0.{number}"),
            ),
            management=Management(address=f"10.0.0.{number}", device="eth0"),
        ),
        rdma=Rdma(ports=(port(number),)),
        gpus=Gpus(
            gpus=(Gpu(0, "GPU-1234", "0000:17:00.0", "NVIDIA H100 80GB HBM3", "570.86.15", 0),),
            source="nvidia-smi",
            peer_module="nvidia_peermem",
            how="kernel 6.8, no open kernel module of NVIDIA, module nvidia_peermem loaded",
            torch="2.13.0",
        ),
        stores=(
            Store(
                url=URL,
                server="10.1.0.9",
                route=Route(device="eth1", source=f"10.1.0.{number}", address="10.1.0.9"),
                local_address=f"10.1.0.{number}",
                put_status=201,
                get_status=206,
                get_intact=True,
                delete_status=204,
            ),
        ),
        reach=Reach(
            nics=(
                NicReach(
                    nic="eth2",
                    source=f"10.2.0.{number}",
                    full_bytes=9000,
                    peers=tuple(map(peer, ("d0", "d1") if name == "p0" else ("p0",))),
                ),
            )
        ),
        began_at_s=1.8e9,
        ended_at_s=1.8e9 + 1,
        clock_offset_s=(-0.2, 0.3),
    )
    return replace(known, **changes)


def mounted(name: str, **changes: Any) -> Store:
    """The store as a directory of NFS in place of the server."""
    known = Store(
        mount="/mnt/kv",
        directory=True,
        mounted_at="/mnt/kv",
        file_system="nfs4",
        source="10.1.0.9:/kv",
        server="10.1.0.9",
        route=Route(device="eth1", source=f"10.1.0.{NUMBERS[name]}", address="10.1.0.9"),
        free_bytes=10**14,
        block_bytes=1 << 20,
        write_error="",
        direct_error="",
    )
    return replace(known, **changes)


def judged(rack: Inventory | None = None, needs: Needs | None = NEEDS, **answers: Answer) -> list[Finding]:
    """What is found, with these answers in place of sound ones."""
    said: dict[str, Answer] = {name: answers.get(name, facts(name)) for name in NUMBERS}
    return findings(rack or inventory(), said, needs)


def told(found: list[Finding]) -> list[Finding]:
    """All but what is as it should be."""
    return [finding for finding in found if finding.severity != "ok"]
