import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.bottleneck import HostBandwidth, inequalities, pd_range, warnings

PAPER = HostBandwidth(
    engines=8, storage_nic_bytes_per_s=50e9, compute_nic_bytes_per_s=50e9, memory_bytes_per_s=500e9
)

rates = st.floats(1e9, 1e12)
hosts = st.builds(
    HostBandwidth,
    engines=st.integers(1, 16),
    storage_nic_bytes_per_s=rates,
    compute_nic_bytes_per_s=rates,
    memory_bytes_per_s=rates,
)
counts = st.integers(1, 64)


def host(engines=8, storage=50e9, compute=50e9, memory=500e9):
    return HostBandwidth(
        engines=engines,
        storage_nic_bytes_per_s=storage,
        compute_nic_bytes_per_s=compute,
        memory_bytes_per_s=memory,
    )


def test_the_papers_range():
    assert pd_range(PAPER) == pytest.approx((1 / 7, 7 / 2))


def test_the_papers_bounds_in_its_order():
    bounds = {one.name: one.pd_bound for one in inequalities(PAPER, 1, 1)}
    assert bounds == pytest.approx(
        {
            "PE CNIC read": math.nan,
            "PE CNIC write": 1 / 7,
            "DE CNIC read": 6,
            "DE CNIC write": 7 / 2,
            "PE DRAM": math.nan,
            "DE DRAM": 7 / 2,
        },
        nan_ok=True,
    )


def test_loads_at_one_to_one():
    loads = {one.name: one.load_bytes_per_s / 1e9 for one in inequalities(PAPER, 1, 1)}
    assert loads == {
        "PE CNIC read": 12.5,
        "PE CNIC write": 12.5,
        "DE CNIC read": 18.75,
        "DE CNIC write": 18.75,
        "PE DRAM": 100,
        "DE DRAM": 250,
    }


@given(counts, counts)
def test_loads_are_sums_of_the_flows_of_all_pairs(prefill_hosts, decode_hosts):
    """Section 4.2 from its flows: Tp and Tc of one pair of engines, over the pairs that share a NIC."""
    g, storage = 8, 50e9
    through_pe = storage / (decode_hosts * g * g)
    through_de = storage / (prefill_hosts * g * g)
    pe_pairs, de_pairs = decode_hosts * g, prefill_hosts * g
    loads = {one.name: one.load_bytes_per_s for one in inequalities(PAPER, prefill_hosts, decode_hosts)}
    assert loads["PE CNIC read"] == pytest.approx(2 * through_pe * pe_pairs)
    assert loads["PE CNIC write"] == pytest.approx((through_pe + through_de) * pe_pairs)
    assert loads["DE CNIC read"] == pytest.approx((through_pe + 2 * through_de) * de_pairs)
    assert loads["DE CNIC write"] == pytest.approx((2 * through_pe + through_de) * de_pairs)


@given(hosts, counts, counts)
def test_an_inequality_holds_exactly_on_its_bounds_side(host, prefill_hosts, decode_hosts):
    pd = prefill_hosts / decode_hosts
    for one in inequalities(host, prefill_hosts, decode_hosts):
        if one.sense is None:
            assert math.isnan(one.pd_bound)
        elif not math.isclose(one.overload, 1, rel_tol=1e-6):
            assert one.holds == (pd >= one.pd_bound if one.sense == ">=" else pd <= one.pd_bound), one


@given(hosts, counts, counts)
def test_no_warning_exactly_inside_the_range(host, prefill_hosts, decode_hosts):
    found, free = warnings(host, prefill_hosts, decode_hosts), pd_range(host)
    failing = [one for one in inequalities(host, prefill_hosts, decode_hosts) if not one.holds]
    assert len(found) == len(failing)
    if free is None:
        assert found
    else:
        least, greatest = free
        slack = 1e-6
        pd = prefill_hosts / decode_hosts
        if least * (1 + slack) < pd < greatest * (1 - slack):
            assert found == []
        elif pd < least * (1 - slack) or pd > greatest * (1 + slack):
            assert found


@pytest.mark.parametrize(("prefill_hosts", "decode_hosts"), [(7, 2), (1, 7), (2, 4), (1, 1)])
def test_both_ends_of_the_papers_range_are_free_of_bottlenecks(prefill_hosts, decode_hosts):
    assert warnings(PAPER, prefill_hosts, decode_hosts) == []


def test_too_many_prefill_hosts():
    assert warnings(PAPER, 8, 1) == [
        "P/D = 8 is above (g - 2s)/s = 6: decode compute NICs would be read-bound by 1.2x; "
        "use a P/D between 0.143 and 3.5",
        "P/D = 8 is above (g - s)/(2s) = 3.5: decode compute NICs would be write-bound by 2.1x; "
        "use a P/D between 0.143 and 3.5",
        "P/D = 8 is above (M/(Bs) - 3)/2 = 3.5: decode hosts would be memory-bound by 1.9x; "
        "use a P/D between 0.143 and 3.5",
    ]


def test_too_many_decode_hosts():
    assert warnings(PAPER, 1, 15) == [
        "P/D = 0.0667 is below s/(g - s) = 0.143: prefill compute NICs would be write-bound by 2x; "
        "use a P/D between 0.143 and 3.5"
    ]


def test_hosts_that_no_ratio_helps():
    assert pd_range(host(engines=1)) is None
    assert warnings(host(memory=80e9), 1, 1)[0] == (
        "PE DRAM of 100 GB/s is above 80 GB/s (2Bs <= M is needed): prefill hosts would be memory-bound by "
        "1.2x; no P/D is free of bottlenecks; use more or faster compute NICs, or more memory bandwidth"
    )
    assert warnings(host(engines=2, compute=40e9), 1, 1)[0].startswith(
        "PE CNIC read of 50 GB/s is above 40 GB/s (2s <= g is needed): prefill compute NICs"
    )
