"""Drives the real command as a user would, and looks at what it leaves on the machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pandas as pd
import psutil
import tomli_w

from harness.cluster.ledger import default_state_dir

RUN_ID_VARIABLE = b"DUALPATH_RUN_ID="
END_TIMEOUT_S = 60.0
AGENTS = 4

EXPERIMENT: dict[str, Any] = {
    "name": "tiny",
    "workload": {"synthesize": "paper-64k", "synthesized_sessions": 20, "generated_scale": 0.001},
    "replay": {"agents": AGENTS, "turns_per_agent": 2, "start": "middle"},
    "cluster": {"prefill_hosts": 1, "decode_hosts": 1},
    "scale": {"bytes_divisor": 512, "time_dilation": 8},
    "storage": {"read_chunk_bytes": 65536},
    "measurement": {"repetitions": 1, "ceiling_s": 0.5, "deadline_s": 60},
}

# Gates that a busy machine may fail, whatever the code under test does.
MACHINE_GATES = ("link rate off", "CPU is the bottleneck", "control plane ")


def write_experiment(
    directory: Path,
    workload: dict[str, Any] | None = None,
    model: str = "dualpath-27b",
    **sections: dict[str, Any],
) -> Path:
    """A few seconds' experiment; ``workload`` takes the place of its own, other sections join theirs."""
    joined = {name: {**EXPERIMENT.get(name, {}), **section} for name, section in sections.items()}
    document = {**EXPERIMENT, **joined, "model": model, "workload": workload or EXPERIMENT["workload"]}
    file = directory / "tiny.toml"
    file.write_text(tomli_w.dumps(document))
    return file


def write_long_experiment(directory: Path, turns: int = 16, deadline_s: float = 60) -> Path:
    """One whose first repetition lasts long enough to be disturbed."""
    return write_experiment(
        directory,
        replay={"turns_per_agent": turns},
        measurement={"ceiling_s": 0.1, "deadline_s": deadline_s},
    )


class CommandRun:
    """One ``dualpath run`` under way, with a temporary directory and a run directory of its own."""

    def __init__(
        self,
        experiment: Path | None,
        workplace: Path,
        *options: str,
        prefix: Sequence[str] = (),
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.directory = directory or workplace / "run"
        self.temporary = workplace / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self.temporary.chmod(0o777)
        self._state_dir = default_state_dir()
        self.errors: list[str] = []
        command = [python, "-m", "harness.cli", "run"]
        if experiment is not None:
            command += [str(experiment), "--out", str(self.directory)]
        self.process = subprocess.Popen(
            [*prefix, *command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**(environment or os.environ), "TMPDIR": str(self.temporary)},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        with self.process:  # closes the pipes and reaps
            pass

    @property
    def metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / "metadata.json").read_bytes())
        return found

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / "summary.json").read_bytes())
        return found

    @property
    def scratch(self) -> Path:
        [found] = self.temporary.iterdir()
        return found

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.directory / name)

    def until_line(self, text: str) -> None:
        """Read progress until a line says ``text``."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors.append(line)
            if text in line:
                return
        raise AssertionError(f"the run ended before {text!r}: {''.join(self.errors)}")

    def until_turns_are_in_flight(self) -> None:
        """In the first repetition more prompts are persisted than there are agents: turns are done, too."""
        self.until_line("warming up")
        persisted = self.scratch / "storage" / "repetition0"
        while len(list(persisted.glob("*/*/prompt"))) <= AGENTS:
            self.pause()

    def pause(self) -> None:
        """A moment in which the run must not end."""
        try:
            status = self.process.wait(0.01)
        except subprocess.TimeoutExpired:
            return
        raise AssertionError(f"the run ended early with {status}: {self.process.communicate()}")

    def members(self) -> dict[str, psutil.Process]:
        """Agents by host and the storage server as ``nginx``."""
        run_id = self.metadata["run_id"]
        found = {}
        for process in carriers(run_id):
            command = process.cmdline()
            found[command[-1] if "hosts.agent" in command else process.name()] = process
        return found

    def end(self, timeout_s: float = END_TIMEOUT_S) -> tuple[int, str, str]:
        """Wait for the end: exit status, stdout, and what stderr had after the progress lines."""
        stdout, stderr = self.process.communicate(timeout=timeout_s)
        self.errors += stderr.splitlines(keepends=True)
        said = [line for line in self.errors if line.startswith("dualpath:")]
        assert "Traceback" not in "".join(self.errors), "".join(self.errors)
        return self.process.returncode, stdout, "".join(said)

    def disturb_and_end(self, disturb: psutil.Process, within_s: float = 10.0) -> tuple[int, str, str]:
        """SIGKILL a process of the run, which has to end soon because of that."""
        began_at = time.monotonic()
        disturb.send_signal(signal.SIGKILL)
        answer = self.end()
        assert time.monotonic() - began_at < within_s
        return answer

    def leftovers(self) -> dict[str, list[str]]:
        """What is still on the machine of an ended run."""
        run_id = self.metadata["run_id"]
        records = list(self._state_dir.glob(f"{run_id}*")) if run_id else []
        return {
            "processes": [str(process) for process in carriers(run_id)] if run_id else [],
            "files": [str(path) for path in self.temporary.iterdir()],
            "records": [str(path) for path in records],
            "drafts": [str(path) for path in self.directory.rglob(".*")],
        }


NOTHING: dict[str, list[str]] = {"processes": [], "files": [], "records": [], "drafts": []}


def finish_exactly(run: CommandRun, *expected: str) -> str:
    """Wait for the end of a run that has to be right to the byte, whether or not the machine kept up; its
    stdout.

    Its problems are the ``expected`` ones, given by their first words, and what the machine adds.
    """
    status, stdout, errors = run.end()
    assert errors == ""
    problems = run.summary["problems"]
    others = [problem for problem in problems if not problem.startswith(MACHINE_GATES)]
    assert len(others) == len(expected), stdout
    assert all(map(str.startswith, others, expected)), stdout
    assert status == (1 if problems else 0)
    assert run.metadata["status"] == "complete"
    assert_exact(run)
    assert run.leftovers() == NOTHING
    return stdout


def assert_exact(run: CommandRun) -> None:
    """In every repetition all accounts of the same bytes agree, and every checked block is right."""
    turns, transfers = run.table("turns.parquet"), run.table("transfers.parquet")
    for repetition in run.metadata["repetitions"]:
        of = transfers[transfers["repetition"] == repetition["repetition"]].groupby("kind")["bytes"].sum()
        served = turns[turns["repetition"] == repetition["repetition"]]
        assert repetition["complete"]
        assert repetition["turns"] == repetition["expected_turns"] == len(served) > 0
        assert repetition["read_bytes"] == repetition["expected_read_bytes"] > 0
        assert repetition["read_bytes"] == of["storage_read"] == served["read_bytes"].sum()
        assert repetition["written_bytes"] == of["storage_write"] == served["persisted_bytes"].sum()
        assert repetition["transferred_bytes"] == of["layer_write"] + of.get("layer_read", 0)
        assert repetition["verified_blocks"] == served["verified_blocks"].sum() > 0
        assert repetition["mismatched_blocks"] == 0
    assert (turns["read_bytes"] == turns["prefill_read_bytes"] + turns["decode_read_bytes"]).all()


def carriers(run_id: str) -> list[psutil.Process]:
    """Processes that carry a run's id."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:
            continue
        if RUN_ID_VARIABLE + run_id.encode() in environment.split(b"\0"):
            found.append(process)
    return found


def interfaces() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex())


def dualpath(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


def public_directory() -> Path:
    """A directory that another user may enter; pytest's own is readable by its maker alone."""
    directory = Path(tempfile.mkdtemp(prefix="dualpath-test-"))
    directory.chmod(0o777)
    return directory
