"""Where a copy a block is as good as one of everything: of any figures, with gaps and turns in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.bench.crossover import AS_GOOD, FASTER, Crossover, crossover, faster_at, span
from harness.bench.options import in_words

SIZES = [4096 << step for step in range(0, 9, 2)]
shares_by_size = st.dictionaries(st.integers(1, 1 << 30), st.floats(0, 2), min_size=1, max_size=12)


@given(shares_by_size)
def test_from_the_crossover_on_every_size_reaches_it_and_the_one_below_does_not(
    shares: dict[int, float],
) -> None:
    found = crossover(shares)
    reach = [size for size in sorted(shares) if shares[size] >= AS_GOOD]
    if found.from_bytes is None:
        assert found.short_bytes == max(shares)
        return
    assert all(share >= AS_GOOD for size, share in shares.items() if size >= found.from_bytes)
    assert found.from_bytes in reach
    below = [size for size in sorted(shares) if size < found.from_bytes]
    assert found.short_bytes == (below[-1] if below else None)
    assert not below or shares[below[-1]] < AS_GOOD


@given(shares_by_size, st.randoms())
def test_the_order_of_the_sizes_does_not_matter(shares: dict[int, float], random: st.DataObject) -> None:
    items = list(shares.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert crossover(dict(items)) == crossover(shares)


@given(shares_by_size, st.data())
def test_a_higher_share_never_moves_the_crossover_up(shares: dict[int, float], data: st.DataObject) -> None:
    size = data.draw(st.sampled_from(sorted(shares)))
    higher = shares | {size: shares[size] + data.draw(st.floats(0, 1))}
    before, after = crossover(shares).from_bytes, crossover(higher).from_bytes
    assert before is None or (after is not None and after <= before)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([0.1, 0.3, 0.71, 0.93, 0.98], Crossover(SIZES[3], SIZES[2])),
        ([0.95, 0.5, 0.89, 0.9, 1.0], Crossover(SIZES[3], SIZES[2])),
        ([0.9] * 5, Crossover(SIZES[0], None)),
        ([1.0, 1.0, 1.0, 1.0, 0.8], Crossover(None, SIZES[4])),
    ],
)
def test_of_known_figures(shares: list[float], expected: Crossover) -> None:
    assert crossover(dict(zip(SIZES, shares, strict=True))) == expected


@given(st.dictionaries(st.integers(1, 1 << 30), st.floats(0, 50), max_size=12))
def test_faster_is_by_more_than_noise(ratios: dict[int, float]) -> None:
    chosen = faster_at(ratios)
    assert chosen == sorted(chosen)
    assert set(chosen) == {size for size, ratio in ratios.items() if ratio >= FASTER}


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ([], "at no size"),
        (SIZES, "at every size"),
        (SIZES[:1], "up to 4KiB"),
        (SIZES[:3], "up to 64KiB"),
        (SIZES[3:], "from 256KiB on"),
        (SIZES[1:3], "at 16KiB, 64KiB"),
        ([SIZES[0], SIZES[4]], "at 4KiB, 1MiB"),
    ],
)
def test_which_sizes_in_words(chosen: list[int], words: str) -> None:
    assert span(chosen, SIZES, in_words) == words


@given(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=8, unique=True), st.data())
def test_the_words_name_the_sizes_that_are_chosen(sizes: list[int], data: st.DataObject) -> None:
    sizes.sort()
    chosen = data.draw(st.sets(st.sampled_from(sizes)))
    words = span(chosen, sizes, str)
    numbers = [int(number) for number in words.replace(",", "").split() if number.isdigit()]
    match words.split()[0], words.split()[-1]:
        case "up", _:
            meant = {size for size in sizes if size <= numbers[0]}
        case "from", _:
            meant = {size for size in sizes if size >= numbers[0]}
        case _, "size":
            meant = set(sizes) if "every" in words else set()
        case _:
            meant = set(numbers)
    assert meant == chosen
