"""The ``dualpath`` command.

Exit codes: 0 valid result, 1 the run is invalid, a gate failed or the speedup is below --fail-below, 2 bad
arguments or input, 3 the testbed failed (host lost, deadline, disk, port), 130 interrupted.
"""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Annotated, NoReturn

import typer
from rich.table import Table

from harness import interrupts, run_cli
from harness.bench.cli import bench
from harness.bench.peers import PeerToolError
from harness.calibration.cli import calibrate_commands
from harness.cluster import ClusterError, cleanup
from harness.console import JsonOption, error_line, out, print_json, usage_line
from harness.experiment import ExperimentError, load_experiment, shipped_experiments
from harness.grounds import InventoryOption
from harness.host_error import HostError
from harness.interrupts import InterruptedRunError
from harness.inventory import load_inventory
from harness.preflight.cli import check, inventory
from harness.run import DeadlineError
from harness.run_store import RunDirectoryError, RunStoreError
from harness.sites.rack_cleanup import prune, remove_on_hosts
from harness.traces_cli import traces
from hosts.compute import ComputeError
from hosts.cuda.driver import CudaError
from hosts.storage import StorageError
from hosts.transport import TransferError
from reports import ReportError
from workloads.fetching import FetchError
from workloads.models import MODELS, ModelError, find_model, gb_per_pflop, kv_bytes_per_token, prefill_flops
from workloads.trace import TraceError

_EXIT_INPUT, _EXIT_TESTBED = 2, 3

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

_TESTBED_ERRORS = (
    HostError,
    ClusterError,
    RunStoreError,
    DeadlineError,
    FetchError,
    PeerToolError,
    TransferError,
    StorageError,
    CudaError,
    ComputeError,
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        out.print(f"dualpath {metadata.version('dualpath-testbed')}")
        raise typer.Exit


app.command(
    epilog="Examples: `dualpath run io_bound_1p1d` · `dualpath run mine.toml --inventory rack.toml` · "
    "`dualpath run --resume runs/tuesday` · `dualpath run demo --inventory rack.toml --print | sbatch`"
)(run_cli.run)
app.command(epilog="Example: `dualpath demo`")(run_cli.demo)
app.command(epilog="Example: `dualpath report runs/demo-20260101-120000`")(run_cli.report)
app.add_typer(calibrate_commands)


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


@app.command("cleanup", epilog="Examples: `dualpath cleanup` · `dualpath cleanup --inventory rack.toml`")
def cleanup_command(rack: InventoryOption = None) -> None:
    """Remove what killed runs left behind, here and on their hosts: processes, namespaces, stored objects.

    Never a live run's. With an inventory, bundles too that nobody has used on its hosts for two weeks.
    """
    removed = cleanup(on_hosts=remove_on_hosts)
    if rack is not None:
        removed += prune(load_inventory(rack))
    for line in removed:
        out.print(f"removed {line}")
    if not removed:
        out.print("nothing to clean up")


def main() -> NoReturn:
    """Entry point: every expected error is one line on stderr and the right exit code."""
    try:
        code = app(prog_name="dualpath", standalone_mode=False)
    except typer.TyperException as error:
        _fail(usage_line(error), _EXIT_INPUT)
    except (ExperimentError, TraceError, ModelError, ReportError, RunDirectoryError) as error:
        _fail(error_line(error), _EXIT_INPUT)
    except _TESTBED_ERRORS as error:
        _fail(error_line(error), _EXIT_TESTBED)
    except InterruptedRunError as error:
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
