"""What ``dualpath bench storage --memory gpu`` prints for people beside the tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from harness.bench.contest import Contest
from harness.bench.gpu_storage import CUFILE, GpuStorageCase
from harness.bench.options import in_words
from hosts.bench.gpu_reads import CuFileUse


def print_answers(cases: Sequence[GpuStorageCase], out: Console) -> None:
    """Whether cuFile was faster than each way through host memory, and what it was that cuFile did."""
    out.print(f"\n{cases[0].gpu}, driver of CUDA {cases[0].cuda_driver}: is cufile faster?")
    for case in cases:
        for tool in case.contest.rounds:
            if tool != CUFILE:
                beside = f"{in_words(case.reads.block_bytes)}, beside {tool}"
                out.print(f"{beside}: {in_a_sentence(case.contest, tool)}")
    for sentence in dict.fromkeys(how_it_read(case.cufile) for case in cases):
        out.print(f"\n{sentence}")


def in_a_sentence(contest: Contest, tool: str) -> str:
    """A difference is one that every round shows."""
    ratios = contest.ratios(CUFILE, tool)
    verdict = "no difference that every round shows"
    if min(ratios) > 1:
        verdict = "faster in every round"
    elif max(ratios) < 1:
        verdict = "slower in every round"
    return f"{verdict} ({min(ratios):.2f}x to {max(ratios):.2f}x)"


def how_it_read(use: CuFileUse) -> str:
    """What the figures of cuFile are figures of."""
    nvidia_fs = f"nvidia-fs {use.nvidia_fs}" if use.nvidia_fs else "nvidia-fs not loaded"
    which = f"cuFile {use.version}, {nvidia_fs}"
    match use.mode:
        case "direct":
            return f"{which}:\nread directly: it was forbidden to go through host memory"
        case "compatibility":
            return (
                f"{which}:\nnot GPUDirect Storage: it went through host memory (compatibility mode),\n"
                f"for directly: {use.reason}"
            )
        case "unknown":
            return f"{which}:\nnot known whether it read directly: {use.reason}"
