import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cluster.errors import ClusterError
from harness.cluster.namespaces import host_commands, port, switch_commands
from harness.cluster.topology import MAX_HOSTS_PER_ROLE, PREFIX_BITS, SUBNETS, ClusterSpec, HighClass, lay_out

host_counts = st.integers(min_value=1, max_value=MAX_HOSTS_PER_ROLE)


@given(host_counts, host_counts)
def test_names_and_addresses_are_unique_and_inside_their_subnet(prefill: int, decode: int) -> None:
    topology = lay_out(ClusterSpec(prefill, decode, 12.5e6, 25e6))
    assert [host.role for host in topology.hosts].count("prefill") == prefill
    assert [host.role for host in topology.hosts].count("decode") == decode
    names = [endpoint.name for endpoint in topology.endpoints]
    assert len(set(names)) == len(names) == prefill + decode + 2
    nics = [nic for endpoint in topology.endpoints for nic in endpoint.nics]
    assert len({nic.address for nic in nics}) == len(nics)
    for nic in nics:
        subnet = ipaddress.ip_network(f"{SUBNETS[nic.network]}.0/{PREFIX_BITS}")
        assert ipaddress.ip_address(nic.address) in set(subnet.hosts())


@given(host_counts, host_counts)
def test_interface_names_fit_the_kernel(prefill: int, decode: int) -> None:
    topology = lay_out(ClusterSpec(prefill, decode, 12.5e6, 25e6))
    ports = [port(nic.network, e.name) for e in topology.endpoints for nic in e.nics]
    assert len(set(ports)) == len(ports)
    assert all(len(name) <= 15 for name in ports)


def test_each_kind_of_machine_is_on_its_networks() -> None:
    topology = lay_out(ClusterSpec(1, 1, 12.5e6, 25e6))
    networks = {e.name: [nic.network for nic in e.nics] for e in topology.endpoints}
    assert networks == {
        "control": ["management"],
        "storage": ["management", "storage"],
        "p0": ["management", "storage", "compute"],
        "d0": ["management", "storage", "compute"],
    }
    storage, p0 = topology.hosts[0], topology.hosts[1]
    assert storage.address("compute") == ""
    assert [nic.bytes_per_s for nic in storage.nics] == [None, None]
    assert [nic.bytes_per_s for nic in p0.nics] == [None, 12.5e6, 25e6]


def test_commands_for_the_smallest_machine() -> None:
    control = lay_out(ClusterSpec(1, 1, 12.5e6, 25e6)).control
    assert host_commands(control) == [
        "link set dev lo up",
        "link set dev mgmt0 addrgenmode none gso_max_size 16384 up",
        "address add 10.77.0.1/24 dev mgmt0",
    ]


def test_switch_puts_each_far_end_into_its_host() -> None:
    topology = lay_out(ClusterSpec(1, 1, 12.5e6, 25e6))
    commands = switch_commands(topology, {e.name: f"/ns/{e.name}" for e in topology.endpoints})
    assert "link add name comp-d0 mtu 1500 type veth peer name comp0 mtu 1500 netns /ns/d0" in commands
    assert sum(" type veth " in c for c in commands) == 1 + 2 + 3 + 3
    assert sum(" type bridge " in c for c in commands) == 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((0, 1, 1e7, 1e7), "prefill_hosts: found 0"),
        ((1, 65, 1e7, 1e7), "decode_hosts: found 65"),
        (
            (1, 1, 9e3, 1e7),
            "storage_nic: found 9e-06 GB/s, .*, expected 10 kB/s to 214 GB/s: lower scale.bytes_divisor",
        ),
        ((1, 1, 1e7, float("nan")), "compute_nic: found nan GB/s"),
        ((1, 1, 1e7, 400e9), "compute_nic: found 400 GB/s, .*: raise scale.bytes_divisor or scale.time"),
        ((1, 1, 1e7, 1e7, HighClass(1.0)), "high_class.share: found 1"),
    ],
)
def test_impossible_clusters_are_refused(arguments: tuple[float, ...], complaint: str) -> None:
    with pytest.raises(ClusterError, match=complaint):
        ClusterSpec(*arguments)  # type: ignore[arg-type]
