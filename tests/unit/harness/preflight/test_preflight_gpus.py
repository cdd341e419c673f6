"""GPUs that engines compute on: enough of them, each near its rail, in reach of NICs that copy there."""

from __future__ import annotations

from dataclasses import replace as with_needs
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from recorded_faults import COMPUTING, THROUGH_NICS, changed
from recorded_rack import NEEDS, facts, inventory, judged, told, with_hosts

from harness.inventory import ComputeNic, Inventory
from harness.preflight import Finding, HostFacts, Needs
from harness.preflight.facts import Gpu, Rdma
from hosts.rails import share

NO_WAY = {"peer_module": "", "dma_buf": False, "how": "kernel 5.4"}


def said(needs: Needs | None, check: str, rack: Inventory | None = None, **d0: Any) -> list[Finding]:
    """Of a check about ``d0``, of whose GPUs some facts are others."""
    found = judged(rack, needs, d0=changed("d0", "gpus", **d0))
    return [finding for finding in found if (finding.host, finding.check) == ("d0", check)]


@pytest.mark.parametrize(
    ("transport", "ways", "expected"),
    [
        ("verbs", {**NO_WAY, "dma_buf": True}, "ok"),
        ("verbs", {**NO_WAY, "peer_module": "nvidia_peermem"}, "error"),
        ("verbs", NO_WAY, "error"),
        ("nixl", {**NO_WAY, "peer_module": "nvidia_peermem"}, "ok"),
        ("nixl", NO_WAY, "error"),
    ],
)
def test_nics_that_copy_to_gpus_have_to_reach_them(
    transport: Any, ways: dict[str, Any], expected: str
) -> None:
    needs = with_needs(THROUGH_NICS, transport=transport)
    unnamed = with_hosts(inventory(), gpus=())  # engines take the host's in turn
    for rack in (inventory(), unnamed):
        (finding,) = said(needs, "gpu direct", rack, **ways)
        assert finding.severity == expected
        if expected == "error":
            assert finding.evidence.endswith(": kernel 5.4")
            assert finding.fix.endswith("; or set compute.copy = 'cuda'")
            assert ("nvidia_peermem" in finding.fix) == (transport == "nixl")


@pytest.mark.parametrize("needs", [NEEDS, COMPUTING, with_needs(THROUGH_NICS, device="cpu")])
def test_runs_that_copy_otherwise_do_without(needs: Needs) -> None:
    (finding,) = said(needs, "gpu direct", **NO_WAY)
    assert finding.severity == "warning"
    assert finding.fix.endswith("runs keep KV in host memory and do without")


@pytest.mark.parametrize(("needs", "offered"), [(NEEDS, True), (COMPUTING, True), (THROUGH_NICS, False)])
def test_tcp_is_no_way_out_where_nics_copy_to_gpus(needs: Needs, offered: bool) -> None:
    found = judged(needs=needs, d0=facts("d0", rdma=Rdma()))
    (finding,) = [finding for finding in found if (finding.host, finding.check) == ("d0", "rdma")]
    assert finding.severity == "error"
    assert ('transport.kind = "tcp"' in finding.fix) == offered


def test_every_engine_that_computes_has_a_gpu_of_its_own() -> None:
    two = with_needs(COMPUTING, engines=2)
    (finding,) = said(two, "gpus")
    assert (finding.severity, finding.evidence) == ("error", "found 1 for 2 engines, expected one each")
    assert not said(with_needs(two, compute="timed"), "gpus")
    assert not said(with_needs(two, device="cpu"), "gpus")
    assert not said(two, "gpus", with_hosts(inventory(), gpus=()))  # the host's in turn


def test_one_gpu_by_two_names() -> None:
    rack = with_hosts(inventory(), gpus=("0", "gpu-1234"))
    (finding,) = said(with_needs(COMPUTING, engines=2), "gpus", rack)
    assert finding.severity == "error"
    assert finding.evidence == "0 and gpu-1234 are the same GPU (0000:17:00.0), expected each once"


def on_nodes(gpu_nodes: list[int], rail_nodes: list[int]) -> tuple[Inventory, HostFacts]:
    """A rack whose hosts have GPUs and compute NICs listed so, and ``d0``, where they are on these nodes."""
    rails = tuple(ComputeNic(f"rail{number}") for number in range(len(rail_nodes)))
    rack = with_hosts(inventory(), gpus=tuple(map(str, range(len(gpu_nodes)))), compute_nics=rails)
    known = facts("d0")
    eth2 = known.network.interface("eth2")
    assert eth2 is not None
    interfaces = tuple(replace(eth2, name=f"rail{i}", numa=node) for i, node in enumerate(rail_nodes))
    gpus = tuple(Gpu(i, f"GPU-{i}", f"{i}", "H100", "570", node) for i, node in enumerate(gpu_nodes))
    network = replace(known.network, interfaces=interfaces)
    return rack, replace(known, network=network, rdma=Rdma(), gpus=replace(known.gpus, gpus=gpus))


def placed(gpu_nodes: list[int], rail_nodes: list[int]) -> Finding:
    """What is said of them, where each GPU is an engine's."""
    rack, d0 = on_nodes(gpu_nodes, rail_nodes)
    found = judged(rack, with_needs(COMPUTING, engines=len(gpu_nodes)), d0=d0)
    (finding,) = [finding for finding in found if (finding.host, finding.check) == ("d0", "numa")]
    return finding


def test_gpus_and_rails_that_are_listed_in_different_orders() -> None:
    finding = placed([1, 1, 1, 1, 0, 0, 0, 0], [0, 1])
    assert finding.severity == "warning"
    assert finding.evidence == (
        "engines 0-3 have rail rail0 on node 0, but their GPUs are on node 1; "
        "engines 4-7 have rail rail1 on node 1, but their GPUs are on node 0"
    )
    assert "list compute_nics and gpus in the same order" in finding.fix


@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=8), st.lists(st.integers(0, 1), min_size=1, max_size=3)
)
def test_an_engine_is_as_far_from_its_rail_as_it_is_said_to_be(
    gpu_nodes: list[int], rail_nodes: list[int]
) -> None:
    engines = len(gpu_nodes)
    near = all(
        node == rail_nodes[share(engine, engines, len(rail_nodes))] for engine, node in enumerate(gpu_nodes)
    )
    assert placed(gpu_nodes, rail_nodes).severity == ("ok" if near else "warning")


def test_without_an_experiment_each_listed_gpu_is_an_engines() -> None:
    rack, d0 = on_nodes([1, 0], [0, 1])
    found = [finding.check for finding in told(judged(rack, None, d0=d0)) if finding.host == "d0"]
    assert "numa" in found
