"""Time how long it takes to reach many hosts by SSH: connect, authenticate, run one command on each.

    .venv/bin/python tools/bench_ssh.py [--hosts 64] [--rounds 3] [--concurrency 32] [--json]

Every host is a real sshd of its own at its own loopback address, with its own ed25519 host key. Control node
and hosts share this machine's CPUs: on a rack, the hosts' part is theirs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh

from harness.cluster.processes import RunProcesses
from harness.inventory import Inventory, InventoryHost, SshLauncher
from harness.launchers import Launcher, open_launcher

TARGET_S = 15.0
READY_TIMEOUT_S = 60.0
# sshd's directory in a mount namespace of its own: /run/sshd may not be there, and is not ours to make.
SETTING = 'mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && exec "$@"'


@contextmanager
def sshds(count: int, directory: Path, concurrency: int) -> Iterator[Inventory]:
    """So many sshds that listen, and the inventory that names them."""
    program = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        sys.exit("sshd is not installed; fix: apt-get install openssh-server")
    addresses = [f"127.77.{number // 250}.{number % 250 + 1}" for number in range(count)]
    with socket.create_server((addresses[0], 0)) as probe:
        port = probe.getsockname()[1]
    (directory / "authorized_keys").write_text(write_key(directory / "id_ed25519"))
    known_hosts = directory / "known_hosts"
    processes = RunProcesses(secrets.token_hex(4))
    try:
        with known_hosts.open("w") as known:
            for address in addresses:
                known.write(f"[{address}]:{port} {write_key(directory / address)}")
                config = directory / f"{address}.config"
                config.write_text(
                    f"ListenAddress {address}:{port}\nHostKey {directory / address}\nPidFile none\n"
                    f"AuthorizedKeysFile {directory}/authorized_keys\nStrictModes no\nUsePAM no\nUseDNS no\n"
                    "SetEnv SHLVL=1\n"  # which keeps bash from this machine's ~/.bashrc
                )
                sshd = [program, "-D", "-e", "-f", str(config)]
                own = ["unshare", "--mount", "--", "sh", "-c", SETTING, "sh"] if os.geteuid() == 0 else []
                processes.spawn([*own, *sshd], None, directory / f"{address}.log")
        for address in addresses:
            wait_until_listening(address, port)
        hosts = tuple(
            InventoryHost(name=f"h{number}", role="decode", address=address)
            for number, address in enumerate(addresses)
        )
        yield Inventory(
            hosts=hosts,
            launcher=SshLauncher(
                port=port,
                key=str(directory / "id_ed25519"),
                known_hosts=str(known_hosts),
                concurrency=concurrency,
            ),
        )
    finally:
        processes.kill_all()


def write_key(file: Path) -> str:
    """A new private key in a file; its public line."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    file.touch(mode=0o600)
    file.write_bytes(key.export_private_key())
    return key.export_public_key().decode()


def wait_until_listening(address: str, port: int) -> None:
    """Until something there takes connections."""
    end_at = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            socket.create_connection((address, port), timeout=1).close()
        except ConnectionRefusedError:
            if time.monotonic() > end_at:
                sys.exit(f"sshd at {address}:{port} does not answer")
            time.sleep(0.01)
        else:
            return


async def hello(launcher: Launcher) -> tuple[float, list[float]]:
    """Seconds until all hosts have answered, and until each had."""
    began_at = time.perf_counter()

    async def one(host: str) -> float:
        done = await launcher.run(host, ["echo", "hello"])
        assert done.stdout == b"hello\n", done
        return time.perf_counter() - began_at

    each = await asyncio.gather(*map(one, launcher.hosts))
    return time.perf_counter() - began_at, sorted(each)


async def measure(inventory: Inventory, rounds: int) -> dict[str, float]:
    """The median round: everything anew, then the same command on connections that are up."""
    anew, again = [], []
    for _ in range(rounds):
        async with open_launcher(inventory) as launcher:
            anew.append(await hello(launcher))
            again.append(await hello(launcher))
    figures: dict[str, float] = {"hosts": len(inventory.hosts), "rounds": rounds, "cpus": os.cpu_count() or 0}
    for name, measured in (("connect_and_hello", anew), ("hello_again", again)):
        total_s, each_s = sorted(measured)[rounds // 2]
        figures[f"{name}_s"] = total_s
        figures[f"{name}_worst_round_s"] = max(total for total, _ in measured)
        figures[f"{name}_host_p50_s"] = statistics.median(each_s)
        figures[f"{name}_host_p99_s"] = each_s[int(0.99 * (len(each_s) - 1))]
    return figures


def main() -> None:
    """Start, measure, print; status 1 where the target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=SshLauncher().concurrency)
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="dualpath-bench-") as directory,
        sshds(arguments.hosts, Path(directory), arguments.concurrency) as inventory,
    ):
        figures = asyncio.run(measure(inventory, arguments.rounds))
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, value in figures.items():
            print(f"{name:34} {f'{value:.3f}' if name.endswith('_s') else f'{value:.0f}':>9}")
        print(f"{'target_connect_and_hello_s':34} {TARGET_S:>9.3f}")
    sys.exit(figures["connect_and_hello_s"] > TARGET_S)


if __name__ == "__main__":
    main()
