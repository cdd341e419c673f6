"""``dualpath run``, ``demo`` and ``report``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from harness import interrupts
from harness.cluster import ClusterError
from harness.console import JsonOption, out, print_json
from harness.experiment import Experiment, ExperimentError, load_experiment
from harness.grounds import InventoryOption, ModeOption, ground_again, ground_of
from harness.host_error import HostError
from harness.interrupts import InterruptedRunError
from harness.inventory import load_inventory
from harness.inventory.choosing import chosen_hosts
from harness.launchers.slurm.script import sbatch_script
from harness.orchestrator import measure
from harness.outputs import FailBelowOption, JunitOption, Outputs, SummaryOption
from harness.progress import RunProgress
from harness.run import DeadlineError
from harness.run_store import RunStoreError, default_directory, disk_error
from harness.sites.ground import Ground
from reports import ReportError, Summary, render

_EXIT_INVALID = 1

OutOption = Annotated[
    Path | None, typer.Option("--out", help="Run directory [default: runs/NAME-TIME].", show_default=False)
]


def run(
    experiment: Annotated[
        str | None, typer.Argument(help="A shipped experiment's name or a TOML file.", show_default=False)
    ] = None,
    directory: OutOption = None,
    inventory: InventoryOption = None,
    mode: ModeOption = "auto",
    print_job: Annotated[
        bool,
        typer.Option("--print", help="Print a script for sbatch that runs this in a job, and run nothing."),
    ] = False,
    retries: Annotated[
        int, typer.Option(min=0, help="How often to begin again when a host fails, for what is missing.")
    ] = 0,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN_DIR", help="Go on with a run that did not finish."),
    ] = None,
    json: JsonOption = False,
    junit: JunitOption = None,
    summary: SummaryOption = None,
    fail_below: FailBelowOption = None,
) -> None:
    """Run an experiment, compare its policies and write the report.

    On an emulated cluster that this machine makes for it, or on the real hosts of an inventory.
    """
    asked = Path(experiment or resume or "run").name.removesuffix(".toml")
    with Outputs(asked, junit, summary, fail_below) as outputs:
        if (experiment is None) == (resume is None) or (resume and (directory or inventory or print_job)):
            raise ExperimentError(
                "run: expected either an experiment (and --out, --inventory), or --resume RUN_DIR, which has "
                "them"
            )
        if print_job:
            typer.echo(_job(load_experiment(experiment or ""), inventory), nl=False)
        elif resume is not None:
            loaded, ground = load_experiment(str(resume / "experiment.toml")), ground_again(resume, mode)
            _run(loaded, resume, ground, json, outputs, retries, resume=True)
        else:
            loaded, ground = load_experiment(experiment or ""), ground_of(inventory, mode)
            _run(loaded, directory or default_directory(loaded.name), ground, json, outputs, retries)


def demo(directory: OutOption = None, mode: ModeOption = "auto", json: JsonOption = False) -> None:
    """Run the default experiment (the one named `demo`)."""
    experiment = load_experiment("demo")
    directory = directory or default_directory(experiment.name)
    _run(experiment, directory, ground_of(None, mode), json, Outputs("demo"))


def report(
    run_dir: Annotated[Path, typer.Argument(help="A run directory, complete or not.")],
    json: JsonOption = False,
    junit: JunitOption = None,
    summary: SummaryOption = None,
    fail_below: FailBelowOption = None,
) -> None:
    """Analyse a stored run again and write its summary.json, report.html and report.md."""
    with Outputs(run_dir.name, junit, summary, fail_below) as outputs:
        _conclude(_render(run_dir, outputs), run_dir, json, outputs)


def _job(experiment: Experiment, inventory: Path | None) -> str:
    """The script of a job that does what this command was asked to."""
    if inventory is None:
        raise ExperimentError("--print: found no --inventory, expected one of kind 'slurm'")
    words = [word for word in sys.argv[1:] if word != "--print"]
    return sbatch_script(
        chosen_hosts(load_inventory(inventory), experiment), ["dualpath", *words], Path.cwd()
    )


def _run(
    experiment: Experiment,
    directory: Path,
    ground: Ground,
    json: bool,
    outputs: Outputs,
    retries: int = 0,
    *,
    resume: bool = False,
) -> None:
    outputs.experiment = experiment.name
    taken = not resume and (directory / "metadata.json").exists()
    interrupts.install()
    try:
        with RunProgress() as progress:
            store = measure(experiment, directory, ground, progress, retries=retries, resume=resume)
        summary = _render(directory, outputs)
        store.complete()
    except (HostError, ClusterError, DeadlineError) as error:
        _report_partial(directory, error, outputs)
        raise
    except KeyboardInterrupt:
        interrupted = InterruptedRunError("interrupted")
        if not taken:
            _report_partial(directory, interrupted, outputs)
        raise interrupted from None
    _conclude(summary, directory, json, outputs)


def _render(directory: Path, outputs: Outputs) -> Summary:
    try:
        summary = render(directory)
    except OSError as error:
        raise disk_error(error, directory) from None
    outputs.analysed(directory, summary)
    return summary


def _report_partial(directory: Path, error: Exception, outputs: Outputs) -> None:
    """Report what was measured until ``error``, which stays the one that is raised, and say where."""
    if not (directory / "metadata.json").exists():
        return
    try:
        _render(directory, outputs)
    except (ReportError, RunStoreError) as second:
        error.add_note(f"no report either: {second}")
    else:
        if _measured(directory):
            error.add_note(f"what was measured: {directory / 'report.html'}")


def _measured(directory: Path) -> bool:
    """Whether the run there came to measuring anything."""
    stored = msgspec.json.decode((directory / "metadata.json").read_bytes())
    return bool(stored["ceilings"] or stored["repetitions"])


def _conclude(summary: Summary, directory: Path, json: bool, outputs: Outputs) -> None:
    """Print the verdict; exit 1 if the run is not valid, or not as fast as it has to be."""
    regression = outputs.regression()
    if json:
        print_json(summary)
    else:
        out.print(f"\n{summary.verdict}")
        for problem in summary.problems:
            out.print(f"INVALID: {problem}")
        if regression:
            out.print(f"FAILED: {regression.line}")
        for warning in summary.warnings:
            out.print(f"warning: {warning}")
        out.print(f"report: {directory / 'report.html'}")
    if not summary.valid or regression:
        raise typer.Exit(_EXIT_INVALID)
