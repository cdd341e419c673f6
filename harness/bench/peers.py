"""The tools that evaluators know, run for the same thing: iperf3, perftest, fio."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.bench.contest import Result

_START_S = 10.0
_LOOK_S = 0.02
_PERFTEST_TRIES = 5
_NO_CLOCK = "Correlation coefficient"
"""perftest's complaint, instead of a report, where the CPU's clock was too uneven to measure by, as a busy
virtual machine's is now and then."""


class PeerToolError(Exception):
    """A tool did not do what it should: which, how it was called, what it said."""


def installed(tool: str) -> bool:
    """Whether it can be run here."""
    return shutil.which(tool) is not None


def iperf3(address: str, block_bytes: int, seconds: float) -> Result:
    """One TCP stream from here to here, as iperf3(1) measures it."""
    port = _free_port(address)
    server = ["iperf3", "--server", "--one-off", "--bind", address, "--port", str(port)]
    client = [
        "iperf3", "--client", address, "--port", str(port), "--time", str(max(1, round(seconds))),
        "--omit", "1", "--length", str(min(block_bytes, 1 << 20)), "--json",
    ]  # fmt: skip
    said = json.loads(_pair(server, client, port, seconds + 30))
    if "error" in said:
        raise PeerToolError(f"iperf3: {said['error']}")
    received, cpu = said["end"]["sum_received"], said["end"]["cpu_utilization_percent"]
    rate = received["bits_per_second"] / 8
    cores = (cpu["host_total"] + cpu["remote_total"]) / 100
    return Result(bytes_per_s=rate, cpu_s_per_gb=cores / (rate / 1e9))


def perftest(
    tool: str, device: str, peer_device: str, gid_index: int, block_bytes: int, depth: int, seconds: float
) -> Result:
    """``ib_read_bw`` or ``ib_write_bw`` between two ports of this machine."""
    port = _free_port("127.0.0.1")
    common = [
        "--size", str(block_bytes), "--tx-depth", str(depth), "--duration", str(max(1, round(seconds))),
        "--gid-index", str(gid_index), "--port", str(port), "--CPU-freq",
    ]  # fmt: skip
    server = [tool, "--ib-dev", peer_device, *common]
    client = [tool, "--ib-dev", device, *common, "127.0.0.1"]
    for tries_left in reversed(range(_PERFTEST_TRIES)):
        try:
            said = _pair(server, client, port, seconds + 60)
        except PeerToolError as error:
            if not tries_left or _NO_CLOCK not in str(error):
                raise
            continue
        rows = re.findall(r"^\s*(\d+)\s+(\d+)\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)\s*$", said, re.MULTILINE)
        if rows:
            _, _, _, average, messages = rows[-1]
            return Result(bytes_per_s=float(average) * 2**20, operations_per_s=float(messages) * 1e6)
    raise PeerToolError(f"{' '.join(client)}: no result in its output: {said.strip()[-300:]}")


def fio(path: Path, block_bytes: int, depth: int, random: bool, direct: bool, seconds: float) -> Result:
    """fio(1) reading the same file with io_uring."""
    command = [
        "fio", "--name=bench", f"--filename={path}", f"--rw={'randread' if random else 'read'}",
        f"--bs={block_bytes}", f"--iodepth={depth}", "--ioengine=io_uring", f"--direct={int(direct)}",
        "--fixedbufs=1", "--time_based=1", "--ramp_time=0.5", f"--runtime={seconds:g}", "--readonly",
        "--output-format=json",
    ]  # fmt: skip
    job = json.loads(_run(command, seconds + 60))["jobs"][0]
    read, cpu = job["read"], (job["usr_cpu"] + job["sys_cpu"]) / 100
    percentiles = read["clat_ns"].get("percentile", {})
    rate = float(read["bw_bytes"])
    return Result(
        bytes_per_s=rate,
        operations_per_s=float(read["iops"]),
        latency_s_p50=percentiles.get("50.000000", 0) / 1e9,
        latency_s_p99=percentiles.get("99.000000", 0) / 1e9,
        cpu_s_per_gb=cpu / (rate / 1e9) if rate else None,
    )


def _pair(server: Sequence[str], client: Sequence[str], port: int, timeout_s: float) -> str:
    """What ``client`` says once ``server`` listens at ``port``. The server is gone afterwards."""
    with subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as process:
        try:
            give_up_at = time.monotonic() + _START_S
            while not _listening(port):
                # Waiting for its end is the pause between two looks: one that gives up is noticed at once.
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=_LOOK_S)
                if process.poll() is not None or time.monotonic() > give_up_at:
                    raise PeerToolError(f"{' '.join(server)}: does not listen (exit status {process.poll()})")
            return _run(client, timeout_s)
        finally:
            process.kill()


def _run(command: Sequence[str], timeout_s: float) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=True)
    except subprocess.TimeoutExpired as error:
        raise PeerToolError(f"{' '.join(command)}: not done within {timeout_s:g} s") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or "").strip().splitlines()
        raise PeerToolError(
            f"{' '.join(command)}: exit status {error.returncode}: {' '.join(said[-2:])}"
        ) from error
    return done.stdout


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def _listening(port: int) -> bool:
    """By the kernel's list (proc(5)): connecting would be taken for the client."""
    wanted = f":{port:04X} "
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            local, _, state = line.split()[1:4]
            if f"{local} ".endswith(wanted) and state == "0A":
                return True
    return False
