"""A calibration as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from harness.calibration.result import Calibration


def storage_table(calibration: Calibration) -> Table:
    """Every host's storage path."""
    table = Table("host", "alone", "all at once", "fio alone", title="storage, payload read", box=None)
    for host, ceiling in calibration.storage.items():
        table.add_row(
            host,
            _rate(ceiling.alone_bytes_per_s),
            _rate(ceiling.together_bytes_per_s),
            _rate(ceiling.fio_bytes_per_s),
        )
    return table


def transfer_table(calibration: Calibration) -> Table:
    """Every pair of compute NICs: slower of its two directions."""
    table = Table("host reads", "from", "alone", "all pairs at once", title="compute NICs", box=None)
    for transfer in calibration.transfers:
        alone = calibration.alone_bytes_per_s[transfer.initiator]
        table.add_row(transfer.initiator, transfer.peer, _rate(alone), _rate(transfer.together_bytes_per_s))
    return table


def remarks(calibration: Calibration) -> Iterator[str]:
    """What somebody who buys switches would want to know."""
    for transfer, share in calibration.oversubscribed():
        yield (
            f"warning: {transfer.initiator} reads from {transfer.peer} at {share:.0%} of what either does "
            "alone while all pairs are at work: a link between them is shared (an oversubscribed switch), or "
            "a host's CPU is"
        )
    yield (
        "compute was not measured: its figures are the profile's, see 'profile' in the file; 'dualpath "
        "calibrate compute' measures it"
    )


def _rate(bytes_per_s: float | None) -> str:
    return "-" if bytes_per_s is None else f"{bytes_per_s * 8 / 1e9:.3g} Gbit/s"
