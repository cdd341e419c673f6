from __future__ import annotations

import msgspec
import pytest
from stored_run_builder import StoredRunBuilder

from reports.bottleneck import bottleneck, highest
from reports.metrics import PolicyMetrics, policy_metrics
from reports.stored_run import StoredRun


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> PolicyMetrics:
    """Little of everything."""
    builder = StoredRunBuilder(sessions=1, turns=20, read_bytes=20_000, compute_s=0.01, decode_s=0.2)
    run = StoredRun.load(builder.write(tmp_path_factory.mktemp("idle")))
    return policy_metrics(run, "prefill_only", run.complete("prefill_only"))


def with_waits(metrics: PolicyMetrics, allocation: float, hbm_wait: float) -> PolicyMetrics:
    """Turns whose TTFT is 1 s."""
    waits_s = metrics.ttft_breakdown_s | {"allocation": allocation, "hbm_wait": hbm_wait}
    return msgspec.structs.replace(metrics, ttft_s=metrics.ttft_s | {"mean": 1.0}, ttft_breakdown_s=waits_s)


def test_nothing_is_saturated_where_everything_idles(idle: PolicyMetrics) -> None:
    bound = highest(idle)
    assert bound is not None
    assert bound.text == "nothing saturated, at most prefill engines (5 % busy)"
    assert (bottleneck(idle) or "").startswith("no saturated resource (prefill engines 5 % busy)")


@pytest.mark.parametrize(
    ("allocation", "hbm_wait", "text"),
    [
        (0.6, 0.1, "bounded by PE and DE buffers (60 % of TTFT)"),
        (0.1, 0.7, "bounded by prefill HBM (70 % of TTFT)"),
        (0.4, 0.4, "no saturated resource"),
    ],
)
def test_waiting_bounds_from_half_of_ttft_on(
    idle: PolicyMetrics, allocation: float, hbm_wait: float, text: str
) -> None:
    assert (bottleneck(with_waits(idle, allocation, hbm_wait)) or "").startswith(text)


def test_a_saturated_resource_explains_the_wait_for_it(idle: PolicyMetrics) -> None:
    busy = msgspec.structs.replace(with_waits(idle, 0.9, 0.0), prefill_engine_busy=0.85)
    bound = highest(busy)
    assert bound is not None
    assert bound.text == "bounded by prefill engines (85 % busy)"


@pytest.mark.parametrize(
    ("nic", "engines", "allocation", "text"),
    [
        # A pass begins with whatever has been read: engines that a saturated NIC starves are in passes, too.
        (0.96, 0.99, 0.9, "bounded by prefill storage NICs (96 % busy)"),
        (0.79, 0.99, 0.9, "bounded by prefill engines (99 % busy)"),
        (0.79, 0.60, 0.5, "bounded by PE and DE buffers (50 % of TTFT)"),
        (0.79, 0.60, 0.4, "nothing saturated, at most prefill storage NICs (79 % busy)"),
    ],
)
def test_nics_before_engines_before_waits(
    idle: PolicyMetrics, nic: float, engines: float, allocation: float, text: str
) -> None:
    busy_nic = msgspec.structs.replace(idle.storage_nic["p0"], busy_utilization=nic)
    metrics = msgspec.structs.replace(
        with_waits(idle, allocation, 0.1),
        prefill_engine_busy=engines,
        storage_nic=idle.storage_nic | {"p0": busy_nic},
    )
    bound = highest(metrics)
    assert bound is not None
    assert bound.text == text


def test_no_repetition_no_bottleneck(idle: PolicyMetrics) -> None:
    assert bottleneck(msgspec.structs.replace(idle, jct_s=[])) is None
