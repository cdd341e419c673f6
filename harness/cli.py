"""The ``dualpath`` command.

Exit codes: 0 valid result, 1 the run is invalid, a gate failed or the speedup is below --fail-below, 2 bad
arguments or input, 3 the testbed failed (host lost, deadline, disk, port), 130 interrupted.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.table import Table

from harness import interrupts
from harness.bench.cli import bench
from harness.bench.peers import PeerToolError
from harness.cluster import ClusterError, cleanup, inside_user_namespace, probe, reexec_in_user_namespace
from harness.console import JsonOption, error_line, out, print_json
from harness.experiment import Experiment, ExperimentError, load_experiment, shipped_experiments
from harness.host_error import HostError
from harness.orchestrator import measure
from harness.outputs import FailBelowOption, JunitOption, Outputs, SummaryOption
from harness.preflight.cli import check, inventory
from harness.progress import RunProgress
from harness.run import DeadlineError
from harness.run_store import RunDirectoryError, RunStoreError, default_directory, disk_error
from harness.sites.emulated import EmulatedGround
from harness.traces_cli import traces
from hosts.device_memory import DeviceMemoryError
from hosts.storage import StorageError
from hosts.transport import TransferError
from reports import ReportError, Summary, render
from workloads.fetching import FetchError
from workloads.models import MODELS, ModelError, find_model, gb_per_pflop, kv_bytes_per_token, prefill_flops
from workloads.trace import TraceError

EXIT_INVALID, EXIT_INPUT, EXIT_TESTBED = 1, 2, 3

app = typer.Typer(
    name="dualpath",
    help="Would loading the KV cache through prefill and decode hosts help on this hardware, and how much?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(traces)
app.add_typer(bench)
app.add_typer(inventory)
app.command(
    "check",
    epilog="Examples: `dualpath check --inventory rack.toml` · `dualpath check demo --inventory rack.toml`",
)(check)

OutOption = Annotated[
    Path | None, typer.Option("--out", help="Run directory [default: runs/NAME-TIME].", show_default=False)
]
ModeName = Literal["auto", "network_namespaces", "user_namespaces", "loopback"]
ModeOption = Annotated[
    ModeName, typer.Option("--mode", help="Kind of emulated cluster; auto takes the best that works here.")
]


class _InterruptedError(Exception):
    """Ctrl-C or SIGTERM during a run: exit code 130."""


_TESTBED_ERRORS = (
    HostError,
    ClusterError,
    RunStoreError,
    DeadlineError,
    FetchError,
    PeerToolError,
    TransferError,
    StorageError,
    DeviceMemoryError,
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        out.print(f"dualpath {metadata.version('dualpath-testbed')}")
        raise typer.Exit


@app.command(epilog="Examples: `dualpath run io_bound_1p1d` · `dualpath run rack.toml --out runs/tuesday`")
def run(
    experiment: Annotated[
        str | None, typer.Argument(help="A shipped experiment's name or a TOML file.", show_default=False)
    ] = None,
    directory: OutOption = None,
    mode: ModeOption = "auto",
    retries: Annotated[
        int, typer.Option(min=0, help="How often to begin again when a host fails, for what is missing.")
    ] = 0,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", help="Go on with a run that did not finish: its directory."),
    ] = None,
    json: JsonOption = False,
    junit: JunitOption = None,
    summary: SummaryOption = None,
    fail_below: FailBelowOption = None,
) -> None:
    """Run an experiment on the emulated cluster, compare its policies and write the report."""
    asked = Path(experiment or resume or "run").name.removesuffix(".toml")
    with Outputs(asked, junit, summary, fail_below) as outputs:
        if (experiment is None) == (resume is None) or (resume and directory):
            raise ExperimentError(
                "run: expected either an experiment (and --out), or --resume RUN_DIR, which has one"
            )
        if resume is not None:
            loaded = load_experiment(str(resume / "experiment.toml"))
            _run(loaded, resume, mode, json, outputs, retries, resume=True)
        else:
            loaded = load_experiment(experiment or "")
            _run(loaded, directory or default_directory(loaded.name), mode, json, outputs, retries)


@app.command(epilog="Example: `dualpath demo`")
def demo(directory: OutOption = None, mode: ModeOption = "auto", json: JsonOption = False) -> None:
    """Run the default experiment (the one named `demo`)."""
    experiment = load_experiment("demo")
    _run(experiment, directory or default_directory(experiment.name), mode, json, Outputs("demo"))


@app.command(epilog="Example: `dualpath report runs/demo-20260101-120000`")
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


@app.command(epilog="Example: `dualpath experiments`")
def experiments(json: JsonOption = False) -> None:
    """List the experiments that ship with the package."""
    loaded = [load_experiment(name) for name in shipped_experiments()]
    if json:
        print_json([{"name": e.name, "description": e.description} for e in loaded])
        return
    table = Table("experiment", "what it shows", box=None)
    for e in loaded:
        table.add_row(e.name, e.description)
    out.print(table)


@app.command(epilog="Example: `dualpath models deepseek-v3.2-660b --context 32721 --append 429 --json`")
def models(
    name: Annotated[str | None, typer.Argument(help="A model's name [default: all].")] = None,
    context: Annotated[int, typer.Option(min=0, help="Cached tokens.")] = 32_768,
    append: Annotated[int, typer.Option(min=1, help="New tokens.")] = 429,
    json: JsonOption = False,
) -> None:
    """KV bytes, prefill FLOPs and their ratio (paper section 3) for known models."""
    chosen = [find_model(name)] if name else list(MODELS.values())
    rows = [
        {
            "name": m.name,
            "context_tokens": context,
            "append_tokens": append,
            "kv_bytes_per_token": kv_bytes_per_token(m),
            "indexer_bytes_per_token": m.indexer_bytes_per_token,
            "prefill_flops": prefill_flops(m, context, append),
            "gb_per_pflop": gb_per_pflop(m, context, append),
            "source": m.source,
        }
        for m in chosen
    ]
    if json:
        print_json(rows[0] if name else rows)
        return
    table = Table("model", "KV bytes/token", "prefill TFLOP", "GB/PFLOP", box=None)
    for m, row in zip(chosen, rows, strict=True):
        flops, ratio = prefill_flops(m, context, append) / 1e12, gb_per_pflop(m, context, append)
        table.add_row(m.name, str(row["kv_bytes_per_token"]), f"{flops:.2f}", f"{ratio:.1f}")
    out.print(table)
    out.print(f"for {append} new tokens over a context of {context} cached tokens")


@app.command("cleanup", epilog="Example: `dualpath cleanup`")
def cleanup_command() -> None:
    """Remove what killed runs left behind: processes, namespaces, scratch files; never a live run's."""
    removed = cleanup()
    for line in removed:
        out.print(f"removed {line}")
    if not removed:
        out.print("nothing to clean up")


def _run(
    experiment: Experiment,
    directory: Path,
    mode: ModeName,
    json: bool,
    outputs: Outputs,
    retries: int = 0,
    *,
    resume: bool = False,
) -> None:
    outputs.experiment = experiment.name
    choice = probe(None if mode == "auto" else mode)
    if choice.mode == "user_namespaces" and not inside_user_namespace():
        reexec_in_user_namespace(sys.orig_argv)
    taken = not resume and (directory / "metadata.json").exists()
    interrupts.install()
    try:
        with RunProgress() as progress:
            ground = EmulatedGround(choice)
            store = measure(experiment, directory, ground, progress, retries=retries, resume=resume)
        summary = _render(directory, outputs)
        store.complete()
    except (HostError, ClusterError, DeadlineError) as error:
        _report_partial(directory, error, outputs)
        raise
    except KeyboardInterrupt:
        interrupted = _InterruptedError("interrupted")
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
        error.add_note(f"what was measured: {directory / 'report.html'}")


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
        raise typer.Exit(EXIT_INVALID)


def main() -> NoReturn:
    """Entry point: every expected error is one line on stderr and the right exit code."""
    try:
        code = app(prog_name="dualpath", standalone_mode=False)
    except typer.TyperException as error:
        usage = error.format_message()
        _fail(f"{usage.rstrip('.')}; see 'dualpath --help'" if usage else "", EXIT_INPUT)
    except (ExperimentError, TraceError, ModelError, ReportError, RunDirectoryError) as error:
        _fail(error_line(error), EXIT_INPUT)
    except _TESTBED_ERRORS as error:
        _fail(error_line(error), EXIT_TESTBED)
    except _InterruptedError as error:
        _fail(error_line(error), interrupts.EXIT_INTERRUPTED)
    if code == interrupts.EXIT_INTERRUPTED:
        _fail("interrupted", code)
    sys.exit(code)


def _fail(line: str, code: int) -> NoReturn:
    if line:
        print(f"dualpath: {line}", file=sys.stderr)  # noqa: T201
    sys.exit(code)


if __name__ == "__main__":
    main()
