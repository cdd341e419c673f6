"""What examples/ and the README show works: commands, the inventory, the nightly script, the CI jobs."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from harness.cli import app
from harness.inventory import load_inventory

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
JOBS = ["github-actions.yml", "gitlab-ci.yml"]
COMMAND = re.compile(r"^\s*(?:\$ )?(?:\S*/)?dualpath (.+)$", re.MULTILINE)


def shown_commands(file: Path) -> list[list[str]]:
    """The arguments of every ``dualpath ...`` line in a file, variables replaced by their defaults."""
    text = file.read_text().replace("\\\n", " ")
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    lines = [shlex.split(line.removesuffix("&"), comments=True) for line in COMMAND.findall(text)]
    return [line for line in lines if line != ["--help"]]


def reached(arguments: list[str]) -> str:
    """The command that these arguments reach, having been accepted; it does nothing."""
    found = []

    def stub(command: object, path: str) -> None:
        if isinstance(command, TyperGroup):
            for name, inner in command.commands.items():
                stub(inner, f"{path} {name}".strip())
        else:
            command.callback = lambda **_: found.append(path)  # type: ignore[attr-defined]

    group = get_command(app)
    stub(group, "")
    group.main(arguments, prog_name="dualpath", standalone_mode=False)
    return found[0]


@pytest.mark.parametrize(
    "file", ["README.md", "examples/nightly.sbatch", *(f"examples/{job}" for job in JOBS)]
)
def test_commands_are_those_of_the_command_line(file: str) -> None:
    commands = shown_commands(ROOT / file)
    assert commands
    for arguments in commands:
        command = reached(arguments).removesuffix(" paths")  # what `calibrate` does unless told otherwise
        assert " ".join(arguments).startswith(command)


@pytest.mark.parametrize("job", JOBS)
def test_jobs_are_yaml_and_keep_the_results_of_a_failed_run(job: str) -> None:
    text = (EXAMPLES / job).read_text()
    assert "\t" not in text
    assert "always" in text
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: only looked at, not parsed")
    document = yaml.safe_load(text)
    if job == "gitlab-ci.yml":
        artifacts = document["dualpath-nightly"]["artifacts"]
        assert artifacts["when"] == "always"
        assert artifacts["reports"] == {"junit": "junit.xml"}
    else:
        steps = document["jobs"]["compare"]["steps"]
        compared = [index for index, step in enumerate(steps) if "dualpath run" in step.get("run", "")]
        assert len(compared) == 1
        after = steps[compared[0] + 1 :]
        assert len(after) == 2
        assert all(step["if"] == "always()" for step in after)


def test_the_inventory_loads() -> None:
    rack = load_inventory(EXAMPLES / "rack.toml")
    assert [len(rack.of_role("prefill")), len(rack.of_role("decode"))] == [1, 2]
    assert (rack.launcher.__class__.__name__, rack.scale) == ("SshLauncher", "real")


def test_cron_starts_the_nightly_script_once() -> None:
    lines = (EXAMPLES / "nightly.cron").read_text().splitlines()
    active = [line for line in lines if line and not line.startswith(("#", "PATH="))]
    assert len(active) == 1
    jobs = [line.removeprefix("#") for line in lines if re.match(r"#?0 2 \* \* \* ", line)]
    assert len(jobs) == 3
    assert all(re.search(r"/examples/nightly\.sbatch( |$)", job) for job in jobs)


@contextmanager
def nightly(tmp_path: Path, dualpath: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """The nightly script under way, with ``dualpath`` as the command's body."""
    command = tmp_path / "bin" / "dualpath"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f"#!/bin/bash\n{dualpath}\n")
    command.chmod(0o755)
    environment = {
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "RESULTS": str(tmp_path / "results"),
        "INVENTORY": "rack.toml",
        **settings,
    }
    with subprocess.Popen(
        [EXAMPLES / "nightly.sbatch"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("status", [0, 1, 3])
def test_the_nightly_script_keeps_the_last_nights_and_passes_the_status_on(
    status: int, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    for night in range(1, 6):
        (results / f"2026010{night}T020000Z" / "run").mkdir(parents=True)
    (results / "notes").mkdir()
    with nightly(
        tmp_path, f'echo "$@"; mkdir "$6"; exit {status}', KEEP="3", EXPERIMENT="my.toml"
    ) as process:
        said, _ = process.communicate(timeout=30)
        assert process.returncode == status, said
    tonight = (results / "latest").resolve()
    kept = sorted(path.name for path in results.iterdir() if not path.is_symlink())
    assert kept == ["20260104T020000Z", "20260105T020000Z", tonight.name, "notes"]
    assert (tonight / "run").is_dir()
    arguments = said.split()
    assert reached(arguments) == "run"
    assert arguments[1:6] == ["my.toml", "--inventory", "rack.toml", "--out", str(tonight / "run")]


def test_the_nightly_script_hands_a_time_limit_on(tmp_path: Path) -> None:
    """Slurm signals the script; the run has to learn of it, and be waited for."""
    command = 'trap "kill %1; echo saved; exit 130" TERM\nsleep 60 >/dev/null & echo began; wait'
    with nightly(tmp_path, command) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "saved\n"
        assert process.wait(timeout=30) == 130
