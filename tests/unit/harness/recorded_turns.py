"""A turn, a host's report, a repetition: as they are once a repetition has ended."""

from __future__ import annotations

from harness.recording import Repetition, TurnRecord
from harness.scheduling import Engine, Limits, Placement
from hosts.protocol import (
    ClassBytes,
    EngineBatch,
    ForwardPass,
    GpuSample,
    GpuSamples,
    HostSamples,
    NicSamples,
    RepetitionReport,
    Transfer,
    TurnDone,
)

LIMITS = Limits({"p0": 3e4, "d1": 2e4}, 5e4, 10**6, 10**7)
PLACEMENT = Placement(Engine("p0", 3), Engine("d1", 2), "split", 3, 2)
TRANSFERS = (
    Transfer("storage_read", "p0", "storage", 300, 2, 10, 20),
    Transfer("storage_read", "d1", "storage", 200, 2, 10, 20),
    Transfer("storage_write", "d1", "storage", 70, 1, 60, 70),
    Transfer("layer_read", "p0", "d1", 500, 5, 20, 50),
    Transfer("layer_write", "p0", "d1", 80, 5, 25, 55),
)


def turn(index: int, done: bool = True) -> TurnRecord:
    record = TurnRecord(
        session_id="s",
        turn=index,
        turn_id=index + 1,
        input_tokens=100,
        hit_tokens=64,
        new_tokens=36,
        output_tokens=9,
        hit_bytes=500,
        arrived_at_ns=1,
        placement=PLACEMENT,
        dispatched_at_ns=2,
    )
    if done:
        record.first_token_at_ns, record.done_at_ns = 30, 90
        record.done = TurnDone(
            turn_id=index + 1,
            allocate_ns=1,
            read_ns=10,
            hbm_wait_ns=3,
            engine_wait_ns=2,
            compute_ns=15,
            transfer_ns=5,
            chunks=2,
            hbm_load_ns=4,
            second_token_ns=6,
            decode_ns=40,
            persist_ns=10,
            persisted_bytes=70,
            verified_blocks=4,
            mismatched_blocks=1,
            transfers=TRANSFERS,
        )
    return record


def repetition(
    index: int = 0, turns: list[TurnRecord] | None = None, reports: dict[str, RepetitionReport] | None = None
) -> Repetition:
    return Repetition(index, "dual_path", LIMITS, turns=turns or [], reports=reports or {})


def samples(count: int) -> HostSamples:
    column = list(range(count))
    return HostSamples(
        at_ns=column,
        cpu_busy_fraction=[0.5] * count,
        agent_cpu_s=[0.1] * count,
        memory_used_bytes=column,
        storage_read_bytes=column,
        storage_written_bytes=column,
        disk_read_bytes=column,
        disk_written_bytes=column,
        sample_cost_ns=column,
        nics=[
            NicSamples("stor0", "storage", rx_bytes=column, tx_bytes=column),
            NicSamples(
                "comp0",
                "compute",
                "mlx5_0 port 1",
                "roce",
                column,
                column,
                rdma_rx_bytes=[7 * value for value in column],
                rdma_tx_bytes=column,
                classes=[ClassBytes("high", 3, None), ClassBytes("low", 40, None)],
                errors={"rx_errors": 0, "out_of_sequence": 2},
            ),
        ],
        gpus=[GpuSamples(0, "GPU-0", "Fake H100", 80 * 2**30, 1980, gpu_samples(count))],
    )


def gpu_samples(count: int) -> list[GpuSample]:
    """The last one of a GPU that was lost."""
    answered = [GpuSample(at, 9, pcie_tx_bytes=500 * at, sm_clock_mhz=1980) for at in range(count - 1)]
    return [*answered, GpuSample(count - 1, 9, error="GPU is lost")]


def report(count: int = 3) -> RepetitionReport:
    forwards = (
        ForwardPass(5, 9, (EngineBatch(0, 3, 2, 40, 64), EngineBatch(1, 0, 0, 0, 0))),
        ForwardPass(9, 12, (EngineBatch(0, 2, 1, 30, 0), EngineBatch(1, 1, 1, 7, 16))),
    )
    return RepetitionReport(500, 70, 0.2, 0.01, samples(count), forwards)
