import mmap
from pathlib import Path

import pytest

from hosts.config import PageKind
from hosts.memory import HUGE_PAGE_BYTES, MemoryUnavailableError, mapped


@pytest.mark.parametrize("pages", ["base", "transparent"])
@pytest.mark.parametrize("nbytes", [1, 4096, HUGE_PAGE_BYTES + 1])
def test_memory_is_zero_writable_and_begins_at_a_page(pages: PageKind, nbytes: int) -> None:
    memory = mapped(nbytes, pages)
    assert memory.nbytes >= nbytes
    assert not memory.any()
    memory[-1] = 1
    boundary = mmap.PAGESIZE if pages == "base" else HUGE_PAGE_BYTES
    assert memory.ctypes.data % boundary == 0


def test_transparent_huge_pages_are_asked_for() -> None:
    memory = mapped(4 * HUGE_PAGE_BYTES, "transparent")
    assert "hg" in _flags(memory.ctypes.data), "smaps(5): hg is MADV_HUGEPAGE"


def test_what_the_reserved_pool_lacks_is_an_error_that_says_how_to_get_it() -> None:
    with pytest.raises(MemoryUnavailableError, match=r"vm\.nr_hugepages") as caught:
        mapped(1 << 45, "hugetlb")
    assert "buffer_pages" in str(caught.value)


def _flags(address: int) -> list[str]:
    """VmFlags of the mapping around an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and ":" not in first:
            begin, end = (int(part, 16) for part in first.split("-"))
            inside = begin <= address < end
        elif inside and first == "VmFlags:":
            return rest.split()
    raise AssertionError("not mapped")
