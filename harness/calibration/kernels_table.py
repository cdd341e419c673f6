"""A model's kernels as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from harness.experiment import KernelProfile

PREDICTS_WITHIN = 0.10
"""What is held out should be predicted as well as that."""


def kernels_table(kernels: KernelProfile) -> Table:
    """How well the fit predicts, and how well what it is compared with repeats."""
    table = Table("attention", "points", "median error", "largest error", title=kernels.device, box=None)
    rows = {
        "fitted": kernels.fit,
        "held out": kernels.held_out,
        "held out, asking": kernels.held_out_asking,
        "held out, measured again": kernels.held_out_again,
    }
    for name, errors in rows.items():
        if errors is not None:
            table.add_row(name, str(errors.points), f"{errors.median:.1%}", f"{errors.largest:.1%}")
    return table


def kernels_remarks(measured: Sequence[KernelProfile]) -> Iterator[str]:
    """Rates of kernels that were measured together, and whether to trust what they predict."""
    for of in measured:
        shared = f", experts over {of.expert_engines} engines" if of.expert_engines > 1 else ""
        rate, peak = of.prefill_tflop_per_s, of.gemm_tflop_per_s
        yield (
            f"prefill of {of.prefill_new} tokens over {of.prefill_context}{shared}: {rate:.3g} TFLOP/s, "
            f"{rate / peak:.1%} of the {peak:.3g} TFLOP/s of a large BF16 matrix product"
        )
    kernels = measured[0]
    largest = max(errors.largest for errors in (kernels.held_out, kernels.held_out_asking) if errors)
    again = kernels.held_out_again.largest
    if largest > PREDICTS_WITHIN:
        yield (
            f"warning: held-out points are predicted up to {largest:.0%} wrong, expected within "
            f"{PREDICTS_WITHIN:.0%}; measured twice they differ by up to {again:.0%}: "
            "measure again on a quiet machine, with longer --seconds"
        )
    if kernels.not_captured:
        yield (
            f"warning: at {kernels.not_captured} points the device's time is the longer of computing and "
            f"asking: it could not capture the work: {kernels.not_captured_reason}"
        )
