"""What ``dualpath bench copies`` prints for people, in at most 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from harness.bench.copies import CopiesCase, CopiesReport
from harness.bench.crossover import AS_GOOD, FASTER, Crossover, faster_at, span
from harness.bench.options import in_words
from hosts.bench.device_copies import Way


def print_copies(report: CopiesReport, out: Console) -> None:
    """A table and a sentence a direction."""
    out.print(f"{report.gpu}, driver of CUDA {report.cuda_driver}")
    for direction, found in report.crossovers.items():
        cases = [case for case in report.cases if case.direction == direction]
        layer = cases[0].layer
        out.print(f"\n{direction}: a layer of {layer.blocks} Full Blocks of {layer.layers} layers")
        out.print(_table(cases))
        out.print(in_a_sentence(cases, found))
    if report.batch_missing:
        out.print(f"\nbatch: {report.batch_missing}")
    out.print(
        "\nmedians over rounds; GB/s: by CUDA events, submitting included; CPU: of the\n"
        "calls that submit, from Python (paper 5.2: 5-7 us for one cudaMemcpyAsync)"
    )


def in_a_sentence(cases: Sequence[CopiesCase], found: Crossover) -> str:
    """The crossover, and where each other way of moving the same blocks is faster than ``each``."""
    wanted = f"{AS_GOOD:.0%} of whole"
    shares = {case.layer.block_bytes: case.ratio("each", "whole") for case in cases}
    match found:
        case Crossover(None, int(short)):
            sentence = f"each stays below {wanted} ({in_words(short)}: {shares[short]:.0%})"
        case Crossover(int(size), int(short)):
            sentence = (
                f"each reaches {wanted} from {in_words(size)} on ({in_words(short)}: {shares[short]:.0%})"
            )
        case _:
            sentence = f"each reaches {wanted} at every size"
    ways: list[Way] = ["batch", "pitched"]
    others = [
        f"{way} {_where_faster(cases, way)}" for way in ways if all(way in case.rounds for case in cases)
    ]
    return f"{sentence};\nfaster than each by {FASTER - 1:.0%} or more: {', '.join(others)}"


def _where_faster(cases: Sequence[CopiesCase], way: Way) -> str:
    ratios = {case.layer.block_bytes: case.ratio(way, "each") for case in cases}
    return span(faster_at(ratios), sorted(ratios), in_words)


def _table(cases: Sequence[CopiesCase]) -> Table:
    table = Table("block", "way", box=None)
    for column in ("GB/s", "of whole", "CPU us a block"):
        table.add_column(column, justify="right")
    for case in cases:
        for way in case.rounds:
            table.add_row(
                in_words(case.layer.block_bytes),
                way,
                f"{case.bytes_per_s(way) / 1e9:.3f}",
                f"{case.ratio(way, 'whole'):.1%}",
                f"{case.submit_us_per_block(way):.3f}",
            )
    return table
