import re

from hypothesis import given
from hypothesis import strategies as st

from harness.cluster.shaping import shaped_classes, shaping_commands
from harness.cluster.topology import LEAST_BYTES_PER_S, MOST_BYTES_PER_S, HighClass, Nic
from hosts.config import Network

rates = st.floats(LEAST_BYTES_PER_S, MOST_BYTES_PER_S)


def test_an_unshaped_nic_needs_nothing() -> None:
    assert shaping_commands("mgmt0", Nic("mgmt0", "management", "10.77.0.1"), HighClass()) == []


def test_storage_nic_is_one_class_at_link_rate() -> None:
    assert shaping_commands("stor0", Nic("stor0", "storage", "10.78.0.10", 12.5e6), HighClass()) == [
        "qdisc add dev stor0 root handle 1: htb default 10",
        "class add dev stor0 parent 1: classid 1:10 htb rate 12500000bps ceil 12500000bps"
        " burst 16384b cburst 16384b quantum 16384 prio 0",
        "qdisc add dev stor0 parent 1:10 bfifo limit 250000",
    ]


def test_compute_nic_has_two_classes_that_borrow_up_to_link_rate() -> None:
    commands = shaping_commands("comp0", Nic("comp0", "compute", "10.79.0.10", 20e6), HighClass())
    assert commands[0].endswith("htb default 20")
    assert "classid 1:10 htb rate 19800000bps ceil 20000000bps" in commands[2]
    assert commands[2].endswith("prio 0")
    assert "classid 1:20 htb rate 200000bps ceil 20000000bps" in commands[4]
    assert commands[4].endswith("prio 7")
    assert commands[-1].endswith("match ip dsfield 0xb8 0xfc flowid 1:10")


def test_rdma_is_classified_too_and_waits_instead_of_being_dropped() -> None:
    nic = Nic("comp0", "compute", "10.79.0.10", 20e6, rdma=True)
    commands = shaping_commands("comp0", nic, HighClass())
    assert commands[-1].endswith("protocol ipv6 prio 2 u32 match ip6 priority 0xb8 0xfc flowid 1:10")
    assert [c.split()[-1] for c in commands if "bfifo" in c] == ["67108864", "67108864"]


def test_leaves_of_a_compute_nic_have_a_class_of_traffic_and_no_others() -> None:
    nic = Nic("comp0", "compute", "10.79.0.10", 20e6)
    assert shaped_classes(nic) == {"1:10": "high", "1:20": "low"}
    commands = shaping_commands("comp0", nic, HighClass())
    assert all(any(f"classid {leaf} " in line for line in commands) for leaf in shaped_classes(nic))
    assert shaped_classes(Nic("stor0", "storage", "10.78.0.10", 20e6)) == {}
    assert shaped_classes(Nic("comp0", "compute", "10.79.0.10")) == {}


@given(rates, st.floats(min_value=0.01, max_value=0.99), st.sampled_from(["storage", "compute"]))
def test_children_share_the_link_and_queues_are_bounded(rate: float, share: float, network: Network) -> None:
    text = "\n".join(shaping_commands("x0", Nic("x0", network, "", rate), HighClass(share)))
    leaves = [int(r) for r in re.findall(r"classid 1:[12]0 htb rate (\d+)bps", text)]
    assert abs(sum(leaves) - rate) <= 2
    assert {int(c) for c in re.findall(r"ceil (\d+)bps", text)} == {round(rate)}
    # At most 20 ms of the link, or what a few segments need on a slow one.
    limits = [int(b) for b in re.findall(r"limit (\d+)", text)]
    assert all(limit <= max(rate * 0.021, 131072) for limit in limits)
    assert all(limit < 2**32 for limit in limits), "tc refuses more"
