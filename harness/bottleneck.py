"""Is a cluster free of bottlenecks other than its storage NICs? The inequalities of paper section 4.2.

With every storage NIC read at its full rate and load balanced over both read paths, each CNIC and each
host's DRAM carries a known load. g engines a host, storage NIC of B s, compute NIC of B an engine, memory
bandwidth M a host, P prefill and D decode hosts:

==============  ======================  =========================
what            load <= capacity        bound on P/D
==============  ======================  =========================
PE CNIC read    2 B s/g <= B            none; needs 2 s <= g
PE CNIC write   (B s/g)(1 + D/P) <= B   P/D >= s/(g - s)
DE CNIC read    (B s/g)(2 + P/D) <= B   P/D <= (g - 2s)/s
DE CNIC write   (B s/g)(1 + 2P/D) <= B  P/D <= (g - s)/(2s)
PE DRAM         2 B s <= M              none; needs 2 B s <= M
DE DRAM         (3 + 2P/D) B s <= M     P/D <= (M/(B s) - 3)/2
==============  ======================  =========================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

# Below this, a load above its capacity is rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBandwidth:
    """One host's engines (g) and bandwidths, all above 0.

    ``compute_nic_bytes_per_s`` is one engine's (B), the other two are the host's: its storage NIC (B s)
    and its DRAM, reads and writes together (M, half duplex).
    """

    engines: int
    storage_nic_bytes_per_s: float
    compute_nic_bytes_per_s: float
    memory_bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Inequality:
    """One line of section 4.2's list at a given P/D.

    It holds where P/D ``sense`` ``pd_bound``, a bound that ``formula`` gives in symbols. Where P/D does not
    matter, ``sense`` is None, ``pd_bound`` NaN and ``formula`` the condition itself.
    """

    name: str
    consequence: str
    sense: Literal[">=", "<="] | None
    formula: str
    pd_bound: float
    load_bytes_per_s: float
    capacity_bytes_per_s: float

    @property
    def overload(self) -> float:
        """Load over capacity: above 1, by how much storage reads are slowed."""
        return self.load_bytes_per_s / self.capacity_bytes_per_s

    @property
    def holds(self) -> bool:
        """Whether the capacity suffices."""
        return self.overload <= 1 + _ROUNDING


def inequalities(host: HostBandwidth, prefill_hosts: int, decode_hosts: int) -> tuple[Inequality, ...]:
    """Section 4.2's six, in its order, for P ``prefill_hosts`` and D ``decode_hosts`` (both >= 1)."""
    pd = prefill_hosts / decode_hosts
    storage, cnic, memory = (
        host.storage_nic_bytes_per_s,
        host.compute_nic_bytes_per_s,
        host.memory_bytes_per_s,
    )
    g, s = host.engines, storage / cnic
    each = storage / g
    return (
        Inequality(
            name="PE CNIC read",
            consequence="prefill compute NICs would be read-bound",
            sense=None,
            formula="2s <= g",
            pd_bound=math.nan,
            load_bytes_per_s=2 * each,
            capacity_bytes_per_s=cnic,
        ),
        Inequality(
            name="PE CNIC write",
            consequence="prefill compute NICs would be write-bound",
            sense=">=",
            formula="s/(g - s)",
            pd_bound=s / (g - s) if g > s else math.inf,
            load_bytes_per_s=each * (1 + 1 / pd),
            capacity_bytes_per_s=cnic,
        ),
        Inequality(
            name="DE CNIC read",
            consequence="decode compute NICs would be read-bound",
            sense="<=",
            formula="(g - 2s)/s",
            pd_bound=(g - 2 * s) / s,
            load_bytes_per_s=each * (2 + pd),
            capacity_bytes_per_s=cnic,
        ),
        Inequality(
            name="DE CNIC write",
            consequence="decode compute NICs would be write-bound",
            sense="<=",
            formula="(g - s)/(2s)",
            pd_bound=(g - s) / (2 * s),
            load_bytes_per_s=each * (1 + 2 * pd),
            capacity_bytes_per_s=cnic,
        ),
        Inequality(
            name="PE DRAM",
            consequence="prefill hosts would be memory-bound",
            sense=None,
            formula="2Bs <= M",
            pd_bound=math.nan,
            load_bytes_per_s=2 * storage,
            capacity_bytes_per_s=memory,
        ),
        Inequality(
            name="DE DRAM",
            consequence="decode hosts would be memory-bound",
            sense="<=",
            formula="(M/(Bs) - 3)/2",
            pd_bound=(memory / storage - 3) / 2,
            load_bytes_per_s=storage * (3 + 2 * pd),
            capacity_bytes_per_s=memory,
        ),
    )


def pd_range(host: HostBandwidth) -> tuple[float, float] | None:
    """The least and the greatest P/D at which all six hold; None if there is none."""
    listed = inequalities(host, 1, 1)
    least = max(inequality.pd_bound for inequality in listed if inequality.sense == ">=")
    greatest = min(inequality.pd_bound for inequality in listed if inequality.sense == "<=")
    possible = all(inequality.holds for inequality in listed if inequality.sense is None)
    return (least, greatest) if possible and least <= greatest * (1 + _ROUNDING) else None


def warnings(host: HostBandwidth, prefill_hosts: int, decode_hosts: int) -> list[str]:
    """One line for each inequality that fails: what, found, limit, by how much and the fix."""
    free = pd_range(host)
    if free is None:
        fix = "no P/D is free of bottlenecks; use more or faster compute NICs, or more memory bandwidth"
    else:
        fix = f"use a P/D between {free[0]:.3g} and {free[1]:.3g}"
    pd = prefill_hosts / decode_hosts
    return [
        f"{_found(inequality, pd)} by {inequality.overload:.2g}x; {fix}"
        for inequality in inequalities(host, prefill_hosts, decode_hosts)
        if not inequality.holds
    ]


def _found(inequality: Inequality, pd: float) -> str:
    if inequality.sense is None:
        load, capacity = inequality.load_bytes_per_s / 1e9, inequality.capacity_bytes_per_s / 1e9
        broken = f"{inequality.name} of {load:.4g} GB/s is above {capacity:.4g} GB/s"
        broken += f" ({inequality.formula} is needed)"
    else:
        side = "above" if inequality.sense == "<=" else "below"
        broken = f"P/D = {pd:.3g} is {side} {inequality.formula} = {inequality.pd_bound:.3g}"
    return f"{broken}: {inequality.consequence}"
