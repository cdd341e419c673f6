"""Every fault of a rack, from what hosts say of themselves: who, what, how bad, and what to do."""

from __future__ import annotations

import re
from dataclasses import replace as with_needs
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from recorded_faults import COMPUTING, FAULTS, ON_NFS, RACK, Fault, changed, nic, on_nfs, reached
from recorded_rack import NEEDS, NUMBERS, facts, judged, peer, told, with_hosts

from harness.inventory import ComputeNic, StorageNic
from harness.preflight import Finding, HostFacts, Needs
from harness.preflight.facts import Python, Rdma, Route


def test_a_sound_rack_is_ready() -> None:
    informed = told(judged())
    assert [(finding.check, finding.severity) for finding in informed] == [("storage room", "info")] * 3
    assert told(judged(ON_NFS, **on_nfs())) == []


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_finding_with_its_fix(fault: Fault) -> None:
    sound = judged(ON_NFS, fault.needs, **on_nfs()) if fault.rack is ON_NFS else judged(needs=fault.needs)
    found = [
        f for f in judged(fault.rack, fault.needs, **fault.answers) if f not in sound and f.severity != "ok"
    ]
    (finding,) = found
    assert (finding.severity, finding.check) == (fault.severity, fault.check)
    assert finding.host in fault.answers
    assert re.search(fault.evidence, finding.evidence), finding.evidence
    assert re.search(fault.fix, finding.fix), finding.fix


def test_who_cannot_be_asked_is_said_and_the_rest_judged() -> None:
    refused = Finding("error", "d0", "reachable", "refuses user bob", "set user in the inventory")
    found = judged(d0=refused)
    assert [finding for finding in told(found) if finding.severity == "error"] == [refused]
    assert {finding.host for finding in found if finding.severity == "ok"} == {"p0", "d1"}


def test_a_python_too_old_to_look_is_the_only_finding_of_its_host() -> None:
    found = judged(d0=HostFacts(python=Python(version="2.7.18", executable="/usr/bin/python3")))
    (finding,) = [finding for finding in found if finding.host == "d0"]
    assert (finding.severity, finding.check) == ("error", "python")
    assert "2.7.18" in finding.evidence


def test_one_host_under_two_names() -> None:
    twice = facts("d1", machine=facts("d0").machine)
    (finding,) = [finding for finding in told(judged(d1=twice)) if finding.severity == "error"]
    assert (finding.host, finding.check) == ("d1", "one role a host")
    assert finding.evidence.startswith("is the same host as d0 (gpu02")
    assert "take d0 or d1 out" in finding.fix


def test_namespaces_of_one_machine_are_hosts_of_their_own() -> None:
    machine = replace(facts("d0").machine, network_namespace=4026532000)
    found = [f for f in judged(d1=facts("d1", machine=machine)) if f.check == "one role a host"]
    assert [(f.severity, f.host) for f in found if f.severity != "ok"] == [("info", "")]


def test_a_local_disk_is_no_shared_store() -> None:
    local = dict(mounted_at="/", file_system="ext4", source="/dev/sda1", server="", route=None)
    found = told(judged(ON_NFS, **on_nfs(**local)))
    assert {f.host for f in found if f.severity == "error" and "of this machine alone" in f.evidence} == {
        *NUMBERS
    }
    one_machine = {
        name: replace(said, machine=replace(said.machine, boot_id="one", network_namespace=number))
        for number, (name, said) in enumerate(on_nfs(**local).items(), 1)
    }
    assert not [f for f in judged(ON_NFS, **one_machine) if f.severity == "error"]


def test_a_wrong_network_is_seen_from_both_sides() -> None:
    astray = peer("d0", address="10.9.0.2", route=Route(device="eth0", source="10.0.0.1"))
    found = told(judged(p0=reached("p0", astray, peer("d1"))))
    (finding,) = [finding for finding in found if finding.severity == "error"]
    assert finding.host == "p0"
    assert finding.evidence.endswith("the way there is through eth0, not through it: d0 (10.9.0.2)")


def test_reads_through_the_page_cache_are_worth_a_warning_on_mounts_only() -> None:
    needs = with_needs(NEEDS, cache="page")
    found = [f for f in told(judged(ON_NFS, needs, **on_nfs())) if f.severity != "info"]
    assert {(f.severity, f.check) for f in found} == {("warning", "storage cache")}
    assert not [f for f in judged(needs=needs) if f.check == "storage cache"]


def test_reserved_huge_pages() -> None:
    needs = with_needs(NEEDS, buffer_pages="hugetlb", buffer_bytes={"decode": 10 * 2**20 + 1})
    few = changed("d0", "memory", huge_pages=4, huge_pages_free=3, available_bytes=0)
    enough = changed("d1", "memory", huge_pages=8, huge_pages_free=6, available_bytes=0)
    found = [f for f in judged(needs=needs, d0=few, d1=enough) if f.check in ("huge pages", "memory")]
    assert [(f.severity, f.host) for f in found] == [("error", "d0"), ("ok", "d1")]
    assert "sysctl -w vm.nr_hugepages=7 (as root, once" in found[0].fix


def test_what_the_transport_does_not_use_is_not_asked_for() -> None:
    bare = changed("d0", "tools", pyverbs_error="none")
    bare = replace(bare, rdma=Rdma(), memory=replace(bare.memory, memlock_soft_bytes=0))
    checks = {f.check for f in judged(needs=with_needs(NEEDS, transport="tcp"), d0=bare) if f.host == "d0"}
    assert not checks & {"rdma", "pyverbs", "memlock"}
    over_nixl = told(judged(needs=with_needs(NEEDS, transport="nixl"), d0=bare))
    assert {f.severity for f in over_nixl if f.check == "rdma"} == {"info"}


@pytest.mark.parametrize(
    ("compute", "evidence"),
    [
        (ComputeNic(name="eth2", device="mlx5_9"), "mlx5_9 port 1: not there, found mlx5_2 port 1 (eth2)"),
        (
            ComputeNic(name="eth2", device="mlx5_2", gid_index=7),
            "mlx5_2 port 1: GID index 7 is empty; found 0: fe80",
        ),
        (ComputeNic(name="eth2", device="mlx5_2", gid_index=2), "GID index 2 is RoCE v1"),
    ],
)
def test_a_port_that_the_inventory_names_wrongly(compute: ComputeNic, evidence: str) -> None:
    found = [f for f in judged(with_hosts(RACK, compute_nics=(compute,))) if f.check == "rdma"]
    assert {f.severity for f in found} == {"error"}
    assert all(evidence in f.evidence for f in found)


def test_nics_that_are_stated_wrongly() -> None:
    nics = (ComputeNic(name="eth2", numa=1, address="10.2.0.99"), ComputeNic(name="eth1"))
    found = [f for f in told(judged(with_hosts(RACK, compute_nics=nics))) if f.host == "p0"]
    said = {(f.severity, f.evidence.partition(",")[0]) for f in found if f.check == "compute nic"}
    assert said == {
        ("error", "eth2: has no address 10.2.0.99"),
        ("warning", "eth2: on NUMA node 0"),
        ("warning", "eth1 is the storage NIC"),
    }
    shared = told(judged(with_hosts(RACK, compute_nics=(ComputeNic(name="eth1"),))))
    assert any("storage reads and KV share its link" in f.evidence for f in shared)


def test_a_nic_that_is_not_there_and_the_one_that_leads_to_the_storage() -> None:
    found = told(judged(with_hosts(RACK, storage_nic=StorageNic(name="ens9"))))
    missing, path = (f for f in found if f.host == "d0" and f.severity == "error")
    assert missing.check == "storage nic"
    assert missing.evidence == (
        "ens9: no such interface, found eth0 (10.0.0.2), eth1 (10.1.0.2), eth2 (10.2.0.2)"
    )
    assert path.fix.startswith("name eth1 as storage_nic, or ")


def test_a_slow_link_is_slower_than_stated_and_than_the_others() -> None:
    stated, others = (
        f for f in told(judged(d0=nic("d0", "eth1", gbit_per_s=100.0))) if f.severity == "warning"
    )
    assert {stated.host, others.host} == {"d0"}
    assert "link at 100 Gbit/s, the inventory states 400" in others.evidence
    assert stated.evidence == "eth1: link at 100 Gbit/s, other storage NICs at 400"


def test_a_rate_that_nobody_knows_is_asked_for() -> None:
    unknown = {name: nic(name, "eth2", gbit_per_s=0.0, driver="virtio_net") for name in NUMBERS}
    found = [f for f in told(judged(**unknown)) if f.check == "compute nic"]
    assert {(f.severity, f.fix) for f in found} == {
        ("info", "state gbit_per_s in the inventory, if it is known")
    }


def test_without_an_experiment_only_what_needs_none() -> None:
    found = judged(needs=None, d0=changed("d0", "memory", available_bytes=0, memlock_soft_bytes=0))
    assert [(f.severity, f.check, f.host) for f in told(found)] == [("info", "experiment", "")]


@given(
    parts=st.dictionaries(
        st.sampled_from(list(NUMBERS)), st.sets(st.sampled_from([*facts("p0").parts(), "stores"]), min_size=1)
    ),
    needs=st.sampled_from([None, Needs(), NEEDS]),
)
def test_whatever_could_not_be_found_out_is_said_and_nothing_else_breaks(
    parts: dict[str, set[str]], needs: Needs | None
) -> None:
    def lacking(name: str) -> HostFacts:
        known = facts(name)
        changes: dict[str, Any] = {}
        for part in parts[name]:
            kind = type(known.stores[0] if part == "stores" else getattr(known, part))
            lost = kind(error="lost")
            changes[part] = (replace(lost, url=known.stores[0].url),) if part == "stores" else lost
        return facts(name, **changes)

    found = judged(needs=needs, **{name: lacking(name) for name in parts})
    for name, lost in parts.items():
        said = [finding.evidence for finding in found if finding.host == name and finding.severity != "ok"]
        assert sum("lost" in evidence for evidence in said) >= len(lost)
    assert all(finding.fix for finding in found if finding.severity in ("error", "warning"))


NO_TORCH = changed("d0", "gpus", torch="")


def test_engines_compute_on_gpus_unless_they_need_none() -> None:
    bare = changed("d0", "gpus", gpus=())
    found = [finding for finding in judged(needs=COMPUTING, d0=bare) if finding.check == "torch"]
    (error,) = [finding for finding in found if finding.severity == "error"]
    assert (error.host, error.evidence) == ("d0", "2.13.0, but there is no GPU by nvidia-smi")
    assert "compute.device = 'cpu'" in error.fix
    bench = with_needs(COMPUTING, without_torch="--collectives transport", without_gpu="--collectives gloo")
    for lacking, fix in ((bare, "or set --collectives gloo"), (NO_TORCH, "or set --collectives transport")):
        (error,) = [
            f for f in judged(needs=bench, d0=lacking) if f.check == "torch" and f.severity == "error"
        ]
        assert error.fix.endswith(fix)
    on_the_cpu = with_needs(COMPUTING, device="cpu")
    assert not [f for f in judged(needs=on_the_cpu, d0=bare) if f.check == "torch" and f.severity != "ok"]
    assert not [f for f in judged(needs=NEEDS, d0=NO_TORCH) if f.check == "torch"]
