"""Memory for the host's buffer, on the pages that were asked for, locked where RDMA needs it."""

from __future__ import annotations

from collections.abc import Iterator

from harness.inventory import RayLauncher, SlurmLauncher
from harness.preflight.case import AS_ROOT, Case, in_words
from harness.preflight.facts import UNLIMITED
from harness.preflight.findings import Finding


def _buffer_bytes(case: Case) -> int:
    """0 for a storage client, and without an experiment."""
    return case.needs.buffer_bytes.get(case.host.role, 0) if case.needs else 0


def buffers(case: Case) -> Iterator[Finding]:
    """There is memory for the buffer; that of reserved huge pages is counted apart."""
    found, needed = case.facts.memory, _buffer_bytes(case)
    if not needed or found.error or (case.needs and case.needs.buffer_pages == "hugetlb"):
        return
    if found.available_bytes < needed:
        yield case.error(
            "memory",
            f"{in_words(found.available_bytes)} of {in_words(found.total_bytes)} available, expected "
            f"{in_words(needed)} for the {case.host.role} host's buffer",
            f"free memory, or set cluster.replace.{case.host.role}_buffer in the experiment",
        )
    else:
        yield case.ok("memory", f"{in_words(found.available_bytes)} available, {in_words(needed)} needed")


def huge_pages(case: Case) -> Iterator[Finding]:
    """Those that ``transport.buffer_pages`` asks for."""
    found, needed = case.facts.memory, _buffer_bytes(case)
    if case.needs is None or not needed or found.error:
        return
    if case.needs.buffer_pages == "hugetlb":
        page_bytes = found.huge_page_bytes or 2 * 2**20
        pages = -(-needed // page_bytes)
        if found.huge_pages_free < pages:
            yield case.error(
                "huge pages",
                f"{found.huge_pages_free} of {found.huge_pages} pages of {page_bytes >> 20} MiB reserved and "
                f"free, expected {pages} for a buffer of {in_words(needed)}",
                f"sysctl -w vm.nr_hugepages={found.huge_pages - found.huge_pages_free + pages} ({AS_ROOT}), "
                'or set transport.buffer_pages = "transparent" in the experiment',
            )
        else:
            yield case.ok("huge pages", f"{found.huge_pages_free} free, {pages} needed")
    elif case.needs.buffer_pages == "transparent":
        if found.transparent_huge_pages not in ("madvise", "always"):
            yield case.warning(
                "huge pages",
                f"transparent ones are '{found.transparent_huge_pages or 'not there'}', expected 'madvise' "
                "or 'always': the buffer will be on base pages",
                f"echo madvise > /sys/kernel/mm/transparent_hugepage/enabled ({AS_ROOT})",
            )
        else:
            yield case.ok("huge pages", f"transparent, {found.transparent_huge_pages}")


def locked(case: Case) -> Iterator[Finding]:
    """RDMA pins the whole buffer; root is not limited."""
    found, needed = case.facts.memory, _buffer_bytes(case)
    if case.needs is None or case.needs.transport != "verbs" or not needed or found.error:
        return
    limit, user = found.memlock_soft_bytes, case.facts.machine.user
    if limit == UNLIMITED or limit >= needed or case.facts.machine.uid == 0:
        yield case.ok("memlock", in_words(limit) if limit >= needed else "unlimited")
        return
    match case.rack.inventory.launcher:
        case SlurmLauncher():
            where = "LimitMEMLOCK=infinity for slurmd, PropagateResourceLimitsExcept=MEMLOCK in slurm.conf"
        case RayLauncher():
            where = "ulimit -l unlimited before 'ray start'"
        case _:
            where = f"echo '{user} - memlock unlimited' > /etc/security/limits.d/dualpath.conf"
    yield case.error(
        "memlock",
        f"{user} may lock {limit} bytes, expected {needed} for the buffer that RDMA registers",
        f"{where} ({AS_ROOT})",
    )
