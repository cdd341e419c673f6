"""The ``dualpath traces`` commands: describe, convert, synthesize and fetch agentic traces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Column, Table

from harness.console import JsonOption, out, print_json
from workloads.fetching import PUBLIC_TRACES, fetch, find_public_trace
from workloads.formats import FORMATS, load_trace, write_trace
from workloads.formats.canonical import as_canonical
from workloads.inspection import inspect
from workloads.synthesis import synthesize
from workloads.trace import Trace, TraceError
from workloads.transform import Change, cap_gaps, reblock, select

traces = typer.Typer(
    name="traces", help="Describe, convert, synthesize and fetch agentic traces.", no_args_is_help=True
)

_PathArgument = Annotated[Path, typer.Argument(help="A trace file, or a folder of them.")]
_OutputOption = Annotated[Path, typer.Option("-o", "--output", help="File to write (JSONL).")]
_FormatOption = Annotated[
    str | None,
    typer.Option("--format", help=f"{', '.join(f.name for f in FORMATS)}; found by content if not given."),
]
_TokenizerOption = Annotated[
    str | None,
    typer.Option(help="Counts text: utf8-bytes/4 (an estimate), tiktoken:ENCODING, hf:MODEL."),
]


@traces.command("inspect", epilog="Example: `dualpath traces inspect trace_0001.json.gz --json`")
def inspect_command(
    path: _PathArgument,
    trace_format: _FormatOption = None,
    tokenizer: _TokenizerOption = None,
    json: JsonOption = False,
) -> None:
    """Describe a trace: sessions, turns, hit rates, context lengths, anomalies met, changes made."""
    summary = inspect(load_trace(path, trace_format, tokenizer))
    if json:
        print_json(summary)
        return
    table = Table(Column("figure", no_wrap=True), Column("value", overflow="fold"), box=None)
    for key, value in msgspec.to_builtins(summary).items():
        if key != "hint" and isinstance(value, str | int | float):
            table.add_row(key, f"{value:.4f}" if isinstance(value, float) else str(value))
    out.print(table)
    for key, value in summary.provenance.items():
        out.print(f"{key}: {value}")
    if summary.hint:
        out.print(f"hint: {summary.hint}")


@traces.command(
    "convert",
    epilog="Example: `dualpath traces convert recorded/ -o t.jsonl --min-turns 40 --gap-cap 60`",
)
def convert_command(
    path: _PathArgument,
    output: _OutputOption,
    trace_format: _FormatOption = None,
    tokenizer: _TokenizerOption = None,
    min_turns: Annotated[int, typer.Option(min=1, help="Keep sessions of at least that many turns.")] = 1,
    max_context: Annotated[
        int | None, typer.Option(min=1, help="Keep sessions of no longer prompt, in tokens.")
    ] = None,
    min_hit_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Keep sessions that hit themselves at least that much.")
    ] = 0.0,
    sessions: Annotated[int | None, typer.Option(min=1, help="Keep the first N of what is left.")] = None,
    gap_cap: Annotated[float | None, typer.Option(min=0, help="Longest gap, in seconds.")] = None,
    block_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens a block.")] = None,
    json: JsonOption = False,
) -> None:
    """Write a trace in the project's own format; show what every change does to the hit rate."""
    trace = load_trace(path, trace_format, tokenizer)
    changes: list[Change] = []
    if (min_turns, max_context, min_hit_rate, sessions) != (1, None, 0.0, None):
        trace, change = select(
            trace,
            min_turns=min_turns,
            max_context_tokens=max_context,
            min_hit_rate=min_hit_rate,
            sessions=sessions,
        )
        changes.append(change)
    if gap_cap is not None:
        trace, change = cap_gaps(trace, gap_cap)
        changes.append(change)
    if block_tokens is not None:
        trace, change = reblock(trace, block_tokens)
        changes.append(change)
    trace = as_canonical(trace)
    _write(trace, output)
    if json:
        print_json({"output": str(output), "sha256": trace.sha256, "changes": changes})
        return
    for change in changes:
        out.print(str(change))
    out.print(f"{output}: {len(trace.sessions)} sessions, sha256 {trace.sha256}")


@traces.command(
    "synthesize",
    epilog="Example: `dualpath traces synthesize --like paper-64k --sessions 500 --seed 1 -o t.jsonl`",
)
def synthesize_command(
    output: _OutputOption,
    like: Annotated[str, typer.Option(help="paper-32k, paper-48k or paper-64k.")] = "paper-64k",
    sessions: Annotated[int, typer.Option(min=1, help="Agent trajectories to draw.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same trace.")] = 1,
) -> None:
    """Write a synthetic trace whose means match the paper's trace table (section 7.1)."""
    trace = synthesize(like, sessions, seed)
    _write(trace, output)
    out.print(f"{output}: {sessions} sessions, sha256 {trace.sha256}")


@traces.command("fetch", epilog="Example: `dualpath traces fetch mooncake-conversation --to traces`")
def fetch_command(
    name: Annotated[str | None, typer.Argument(help="A public trace [default: list them].")] = None,
    to: Annotated[Path, typer.Option(help="Folder; the trace gets a folder of its own in it.")] = Path(
        "traces"
    ),
) -> None:
    """Fetch a public trace and check it against its pinned hash."""
    if name is None:
        table = Table("trace", "licence", "what it is", box=None)
        for known, trace in PUBLIC_TRACES.items():
            table.add_row(known, trace.licence, trace.about)
        out.print(table)
        return
    trace = find_public_trace(name)
    out.print(f"{fetch(trace, to / name)}: {trace.about}; {trace.licence}, from {trace.url}")


def _write(trace: Trace, output: Path) -> None:
    try:
        write_trace(trace, output)
    except OSError as error:
        raise TraceError.at(
            output,
            found=error.strerror or str(error),
            expected="a file that can be written",
            fix="choose another",
        ) from None
