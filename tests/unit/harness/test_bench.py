"""Benchmarks: tools in turn, figures beside each other, the commands on this machine's loopback and disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.bench.cli import _ENGINES, _TRANSPORTS, bench
from harness.bench.contest import Result, contest
from harness.bench.options import names, sizes
from harness.bench.peers import PeerToolError
from harness.bench.transport import Ends, bench_transport
from harness.experiment import ExperimentError
from hosts.bench.transfers import Transfers
from hosts.config import TransportConfig


def test_the_order_is_reversed_from_round_to_round_and_ratios_are_paired() -> None:
    calls: list[str] = []
    rates = {"a": iter([1.0, 20.0, 3.0]), "b": iter([2.0, 10.0, 12.0])}

    def tool(name: str) -> Result:
        calls.append(name)
        return Result(bytes_per_s=next(rates[name]), latency_s_p50=0.5)

    found = contest({name: lambda name=name: tool(name) for name in rates}, 3)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert found.ratio("a", "b") == 0.5  # of 0.5, 2 and 0.25
    assert found.median("a") == Result(bytes_per_s=3.0, latency_s_p50=0.5)


@pytest.mark.parametrize(
    ("text", "expected"), [("4096", [4096]), ("64K,1m", [65536, 1 << 20]), ("2G", [2 << 30])]
)
def test_sizes(text: str, expected: list[int]) -> None:
    assert sizes("block", text) == expected


@pytest.mark.parametrize("text", ["", "0", "1T", "1.5M", "64K,", "-1"])
def test_what_is_no_size_is_said(text: str) -> None:
    with pytest.raises(ExperimentError, match="expected bytes such as 4096, 64K, 1M or 1G"):
        sizes("block", text)


def test_several_transports_or_engines_are_named_once_each() -> None:
    assert names("kind", "nixl, tcp,nixl", _TRANSPORTS) == ["nixl", "tcp"]
    with pytest.raises(ExperimentError, match="found 'rdma', expected some of tcp, verbs, nixl"):
        names("kind", "tcp,rdma", _TRANSPORTS)


@pytest.mark.parametrize(
    "command",
    [
        ["transport", "--block", "64K", "--batch", "4", "--direction", "write"],
        ["storage", "ROOT", "--size", "4M", "--block", "64K", "--cache", "page", "--order", "random"],
        [
            "storage",
            "ROOT",
            "--size",
            "4M",
            "--block",
            "64K",
            "--cache",
            "page",
            "--engine",
            "threads,io_uring",
        ],
    ],
)
def test_a_short_run_of_each_command(tmp_path: Path, command: list[str]) -> None:
    arguments = [str(tmp_path) if part == "ROOT" else part for part in command]
    options = ["--seconds", "0.2", "--rounds", "1", "--no-peer", "--json"]
    result = CliRunner().invoke(bench, [*arguments, *options])
    assert result.exit_code == 0, result.output
    [case] = json.loads(result.stdout)
    for tool, [found] in case["contest"]["rounds"].items():
        assert tool in (*_TRANSPORTS, *_ENGINES)
        assert found["bytes_per_s"] > 0
        assert found["operations_per_s"] > 0
        assert 0 < found["latency_s_p50"] <= found["latency_s_p99"]
        assert found["cpu_s_per_gb"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_missing_rdma_device_is_said_by_ours_before_the_peer_tool_is_asked(
    capfd: pytest.CaptureFixture[str],
) -> None:
    nowhere = TransportConfig("verbs", bind_address="192.0.2.1")
    transfers = Transfers("read", 4096, 1, 1, "low", 0.1)
    with pytest.raises(PeerToolError, match="the target process ended"):
        bench_transport([Ends(nowhere, nowhere)], transfers, 1, peer=True)
    assert "open with 192.0.2.1" in capfd.readouterr().err
