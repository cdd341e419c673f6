"""One suite over reads of files into a GPU's memory: on the fake libraries, and on this host's first GPU,
where it has one and a cuFile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import fake_cuda
from fake_cufile import fake_cufile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hosts.bench.gpu_reads import by_cufile, measure, opened_cufile, through_host
from hosts.bench.reads import Reads, filled_file
from hosts.config import StorageConfig
from hosts.cuda.cufile import CuFile, DirectFile, RegisteredBuffer
from hosts.cuda.driver import CudaError, Gpu
from hosts.cuda.memory import DeviceBuffer

PAGE, FILE_PAGES = 4096, 64
FILE_BYTES = PAGE * FILE_PAGES
READS = Reads(3 * PAGE, 4, random=True, seconds=0.05)
on_one_gpu = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=["fake", "gpu"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gpu(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    if kind == "fake":
        with fake_cuda() as driver, fake_cufile(driver, tmp_path), closing(Gpu()) as gpu, gpu.current():
            yield gpu
        return
    monkeypatch.chdir(tmp_path)  # where cuFile puts its log
    try:
        real = Gpu()
    except CudaError as error:
        pytest.skip(f"GPU: {error}")
    with closing(real), real.current():
        yield real


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "store").mkdir()
    with filled_file(tmp_path / "store", FILE_BYTES) as path:
        yield path


@contextmanager
def opened(gpu: Gpu, path: Path) -> Iterator[CuFile]:
    """By whichever way works here; no cuFile at all is a reason to skip."""
    try:
        with opened_cufile(gpu, path) as (cufile, _):
            yield cufile
    except CudaError as error:
        if "no cuFile on this host" not in str(error):
            raise
        pytest.skip(str(error))


@on_one_gpu
@given(
    place=st.integers(0, FILE_PAGES - 1), pages=st.integers(1, FILE_PAGES), at=st.integers(0, FILE_PAGES - 1)
)
def test_the_files_bytes_get_where_they_belong_and_none_beside_them(
    gpu: Gpu, file: Path, place: int, pages: int, at: int
) -> None:
    pages = min(pages, FILE_PAGES - place, FILE_PAGES - at)
    content = np.fromfile(file, np.uint8)
    expected = np.zeros(FILE_BYTES, np.uint8)
    expected[at * PAGE : (at + pages) * PAGE] = content[place * PAGE : (place + pages) * PAGE]
    with (
        opened(gpu, file) as cufile,
        closing(DeviceBuffer(gpu, FILE_BYTES)) as memory,
        closing(RegisteredBuffer(cufile, memory)) as buffer,
        closing(DirectFile(cufile, file)) as direct,
    ):
        direct.read(buffer, at * PAGE, place * PAGE, pages * PAGE)
        np.testing.assert_array_equal(memory.read(), expected)


def test_both_ways_read_what_they_are_asked_for_and_are_timed(gpu: Gpu, file: Path) -> None:
    config = StorageConfig(kind="posix", root=str(file.parent), read_streams=READS.depth, engine="threads")
    with opened(gpu, file) as cufile:
        for engine, way in (
            ("cufile", by_cufile(gpu, cufile, file, READS)),
            ("threads", through_host(gpu, config, file, READS)),
        ):
            used, observed = asyncio.run(measure(way, file, FILE_BYTES, READS, warm_up_s=0.0))
            assert used == engine
            assert observed.operations > 0
            assert observed.bytes == observed.operations * READS.block_bytes
            assert observed.cpu_s > 0


def test_a_file_is_closed_with_what_was_registered(gpu: Gpu, file: Path) -> None:
    with opened(gpu, file) as cufile:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            DirectFile(cufile, file).close()
        assert len(os.listdir("/proc/self/fd")) == before
