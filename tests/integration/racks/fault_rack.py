"""A rack to break things on: the sshd lab, disks that can be filled, clocks that can be set.

with fault_rack(directory) as rack:
    with rack.run("first") as run:
        rack.until(run, "turn 3 of repetition 1")
        rack.agent("d0", run).kill()
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
from run_driver import CommandRun, write_experiment

from harness.cluster import ClusterSpec
from hosts.leftovers import stored_name
from racks.sshd_lab import SshdLab, sshd_lab

SPEC = ClusterSpec(1, 2, storage_nic_bytes_per_s=12.5e6, compute_nic_bytes_per_s=25e6)
CONTROL = "control"
STORE_BYTES, RUNS_BYTES = 128 << 20, 64 << 20
_LABS_OWN = ("sshd", "nginx", "unshare", "nsenter", "sleep", "")
"""Programs of a host that no run starts; and of a process that is gone, nothing."""
_TURNS = re.compile(r"turn (\d+) of repetition (\d+)")


class FaultRack:
    """A rack that is up. ``store`` and ``runs`` are the small disks of the KV store and of run directories;
    ``experiment`` is a few seconds' one."""

    def __init__(self, lab: SshdLab, store: Path, runs: Path) -> None:
        self.lab = lab
        self.store = store
        self.runs = runs
        self.experiment = write_experiment(
            lab.directory,
            cluster={"decode_hosts": 2},
            replay={"turns_per_agent": 4},
            measurement={"ceiling_s": 0.3},
        )
        self._control_variables: dict[str, str] = {}

    def run(self, name: str) -> CommandRun:
        """Start `dualpath run`, in a run directory of that name."""
        return self._started(name, self.experiment, "--inventory", str(self.lab.inventory))

    def resumed(self, name: str) -> CommandRun:
        """Go on with one."""
        return self._started(name, None, "--resume", str(self.runs / name))

    def _started(self, name: str, experiment: Path | None, *options: str) -> CommandRun:
        return CommandRun(
            experiment,
            self.lab.directory / "control",
            *options,
            prefix=self.lab.prefix,
            environment={**os.environ, **self._control_variables},
            directory=self.runs / name,
        )

    def until(self, run: CommandRun, moment: str) -> None:
        """A line of a run's progress says ``moment``; or, of a repetition, so many turns are done."""
        found = _TURNS.fullmatch(moment)
        if found is None:
            return run.until_line(moment)
        turns, repetition = int(found[1]), int(found[2])
        run.until_line(f"{repetition}/2 ")
        stored = self.lab.cluster.storage_root / stored_name(run.metadata["run_id"])
        while len(list(stored.glob(f"repetition{repetition - 1}/*/*/prompt"))) < turns:
            run.pause()

    def cleanup(self) -> subprocess.CompletedProcess[str]:
        """`dualpath cleanup`, to its end; it sees no host's processes but through the launcher."""
        apart = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
        command = [*self.lab.prefix, *apart, sys.executable, "-m", "harness.cli", "cleanup"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def agent(self, host: str, run: CommandRun) -> psutil.Process:
        """A host's agent, as soon as there is one."""
        while True:
            for process in self.processes(host):
                with suppress(psutil.NoSuchProcess):
                    if process.name().startswith("python") and "hosts.agent" in process.cmdline():
                        return process
            run.pause()

    def processes(self, host: str) -> list[psutil.Process]:
        """What runs on a host besides its servers."""
        return [p for p in self.lab.processes(host) if _name(p) not in _LABS_OWN]

    def restart_sshd(self, host: str, *config: str) -> None:
        """End a host's sshd, if it still runs, and start it again."""
        self.lab.kill_sshd(host)
        self.lab.start(host, *config)

    def storage_server(self) -> psutil.Process:
        """The server of the KV store, which is nobody's run."""
        return psutil.Process(self.lab.cluster.storage_processes[0].pid)

    def restart_storage(self) -> None:
        """End it, if it still runs, and start it again."""
        self.lab.cluster.storage_processes[0].kill()
        self.lab.restart_storage()

    def leftovers(self) -> dict[str, list[str]]:
        """What a run has left anywhere on the rack."""
        records = self.lab.control_run / "dualpath"
        left = {
            "processes": [
                f"{host}: {p.pid} {_name(p)}" for host in self.lab.hosts for p in self.processes(host)
            ],
            "stored": [path.name for path in self.lab.cluster.storage_root.iterdir()],
            "records": [path.name for path in records.glob("*")],
            "temporary": [path.name for path in (self.lab.directory / "control" / "tmp").glob("*")],
        }
        return {kind: found for kind, found in left.items() if found}

    def purge(self) -> None:
        """Remove by hand what is stored and recorded, so that the next run is judged by itself."""
        for path in (
            *self.lab.cluster.storage_root.iterdir(),
            *(self.lab.control_run / "dualpath").glob("*"),
        ):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextmanager
    def own_clock(self, host: str) -> Iterator[Callable[[int], None]]:
        """Meanwhile a host, or the control node, has a clock of its own; yields what sets it, by seconds."""
        offset = self.lab.directory / f"{host}.clock"
        offset.write_bytes(bytes(8))
        variables = {"LD_PRELOAD": str(self._clock_library()), "LAB_CLOCK": str(offset)}
        try:
            if host == CONTROL:
                self._control_variables = variables
            else:
                words = " ".join(f"{name}={value}" for name, value in variables.items())
                self.restart_sshd(host, f"SetEnv SHLVL=1 {words}")  # of several, the first counts
            yield lambda by_s: _overwrite(offset, by_s.to_bytes(8, sys.byteorder, signed=True))
        finally:
            if host == CONTROL:
                self._control_variables = {}
            else:
                self.restart_sshd(host)

    def _clock_library(self) -> Path:
        library = self.lab.directory / "clock.so"
        if not library.exists():
            source = Path(__file__).with_name("clock.c")
            subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        return library


@contextmanager
def fault_rack(directory: Path) -> Iterator[FaultRack]:
    """The rack, up; at the end all of it is gone but ``directory``."""
    with ExitStack() as mounted:
        store = mounted.enter_context(_small_disk(directory / "store", STORE_BYTES))
        runs = mounted.enter_context(_small_disk(directory / "runs", RUNS_BYTES))
        with sshd_lab(directory, SPEC, store, apart=True) as lab:
            yield FaultRack(lab, store, runs)


@contextmanager
def _small_disk(mount: Path, size_bytes: int) -> Iterator[Path]:
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def _overwrite(file: Path, content: bytes) -> None:
    """In place: processes have it mapped."""
    with file.open("r+b") as opened:
        opened.write(content)


def _name(process: psutil.Process) -> str:
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else process.name()
    except psutil.NoSuchProcess:
        return ""
