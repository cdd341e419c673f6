"""cuFile's refusals in words, what it may do, and that all is given back; no real library is asked."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_cuda import FakeCuda, fake_cuda
from fake_cufile import FakeCuFile, fake_cufile, no_cufile

from hosts.bench.gpu_reads import by_cufile, measure, opened_cufile, through_host
from hosts.bench.reads import Reads
from hosts.config import StorageConfig
from hosts.cuda import cufile as binding
from hosts.cuda.cufile import CuFile, CuFileError, DirectFile, RegisteredBuffer
from hosts.cuda.driver import CudaError, Gpu
from hosts.cuda.memory import DeviceBuffer

BLOCK, BLOCKS = 4096, 16
READS = Reads(BLOCK, 2, random=False, seconds=0.01)


@pytest.fixture
def driver() -> Iterator[FakeCuda]:
    with fake_cuda() as fake:
        yield fake


@pytest.fixture
def gpu(driver: FakeCuda) -> Iterator[Gpu]:
    with closing(Gpu()) as gpu, gpu.current():
        yield gpu


@pytest.fixture
def library(driver: FakeCuda, gpu: Gpu, tmp_path: Path) -> Iterator[FakeCuFile]:
    with fake_cufile(driver, tmp_path) as fake:
        yield fake


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * (BLOCK * BLOCKS // 256))
    return path


def read_a_block(gpu: Gpu, file: Path, offset: int = 0) -> None:
    with (
        closing(CuFile(direct_only=True)) as cufile,
        closing(DeviceBuffer(gpu, BLOCK)) as memory,
        closing(RegisteredBuffer(cufile, memory)) as buffer,
        closing(DirectFile(cufile, file)) as direct,
    ):
        direct.read(buffer, 0, offset, BLOCK)


@pytest.mark.parametrize(
    ("nvidia_fs", "supports", "obeys", "mode", "said"),
    [
        (True, True, True, "direct", ""),
        (False, True, True, "compatibility", "cuFileDriverOpen: nvidia-fs is not loaded [cuFile error 5001]"),
        (True, False, True, "compatibility", "cuFileHandleRegister: not on this file's file system"),
        (True, True, False, "unknown", "its properties allow it to go through host memory"),
    ],
)
def test_how_cufile_reads_is_found_out_by_forbidding_it_host_memory(
    gpu: Gpu,
    library: FakeCuFile,
    file: Path,
    nvidia_fs: bool,
    supports: bool,
    obeys: bool,
    mode: str,
    said: str,
) -> None:
    library.nvidia_fs, library.supports, library.obeys = nvidia_fs, supports, obeys
    with opened_cufile(gpu, file) as (cufile, use):
        library.read_directly.clear()
        asyncio.run(measure(by_cufile(gpu, cufile, file, READS), file, BLOCK * BLOCKS, READS, 0.0))
    assert (use.mode, use.version, use.nvidia_fs) == (mode, "1.14", "2.20.5")
    assert use.reason.startswith(said)
    assert bool(use.reason) == (mode != "direct")
    assert set(library.read_directly) == {mode != "compatibility"}


def test_forced_compatibility_is_taken_back(gpu: Gpu, library: FakeCuFile, file: Path) -> None:
    library.parameters[2] = True  # as by $CUFILE_FORCE_COMPAT_MODE
    read_a_block(gpu, file)
    assert library.read_directly == [True]


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("cuFileSetParameterBool", 5022, r"cuFileSetParameterBool: invalid argument \[cuFile error 5022\]"),
        ("cuFileDriverOpen", 5004, r"cuFileDriverOpen: .* differ in version .*; install the nvidia-gds that"),
        ("cuFileDriverGetProperties", 5030, "cuFileDriverGetProperties: internal error"),
        ("cuFileGetVersion", 5099, "cuFileGetVersion: cuFile error 5099$"),
        ("cuFileBufRegister", 5036, "cannot be pinned .*; fewer or smaller blocks"),
        ("cuFileBufRegister", 5011 | 2 << 32, "cuFileBufRegister: the CUDA driver refuses .*: CUDA error 2$"),
        ("cuFileHandleRegister", 5020, "cuFileHandleRegister: not opened with O_DIRECT"),
        (
            "cuFileRead",
            -5012,
            r"cuFileRead of .*file, 4096 bytes at 0: no memory of a GPU \[cuFile error 5012\]",
        ),
    ],
)
def test_what_cufile_refuses_is_said_and_nothing_is_kept(
    gpu: Gpu, library: FakeCuFile, file: Path, name: str, code: int, said: str
) -> None:
    library.refused[name] = code
    with pytest.raises(CuFileError, match=said):
        read_a_block(gpu, file)


@pytest.mark.parametrize(
    ("gives", "code", "said"),
    [
        (-1, errno.EIO, "cuFileRead of .*file, 4096 bytes at 8192: Input/output error"),
        (-1, 0, "at 8192: it does not say why"),
        (1000, 0, "at 8192: found 1000 bytes, expected all: does the file end there"),
    ],
)
def test_a_read_that_fails_or_is_short_is_said(
    gpu: Gpu, library: FakeCuFile, file: Path, gives: int, code: int, said: str
) -> None:
    library.reads_give, library.errno = gives, code
    with pytest.raises(CuFileError, match=said):
        read_a_block(gpu, file, 2 * BLOCK)


def test_a_read_past_the_end_of_the_file_is_short(gpu: Gpu, library: FakeCuFile, file: Path) -> None:
    with pytest.raises(CuFileError, match="found 0 bytes"):
        read_a_block(gpu, file, BLOCK * BLOCKS)


def test_a_file_that_is_not_there_is_said(gpu: Gpu, library: FakeCuFile, tmp_path: Path) -> None:
    with pytest.raises(CuFileError, match=r"open of .*none with O_DIRECT: No such file"):
        read_a_block(gpu, tmp_path / "none")


def test_an_older_library_is_said(gpu: Gpu, library: FakeCuFile, file: Path) -> None:
    library.missing.add("cuFileSetParameterBool")
    with pytest.raises(
        CuFileError, match=r"has no cuFileSetParameterBool; expected that of CUDA 12\.9 or newer"
    ):
        read_a_block(gpu, file)


def test_memory_that_is_no_gpus_is_refused(gpu: Gpu, library: FakeCuFile) -> None:
    with closing(CuFile(direct_only=True)) as cufile:
        memory: Any = SimpleNamespace(address=4096, nbytes=BLOCK)
        with pytest.raises(CuFileError, match=r"the CUDA driver refuses .* CUDA error 1$"):
            RegisteredBuffer(cufile, memory)


def test_without_the_library_the_error_says_how_to_get_it() -> None:
    expected = r"no cuFile on this host: found libcufile\.so\.0: cannot .* install nvidia-gds, or pip install"
    with no_cufile(), pytest.raises(CuFileError, match=expected):
        CuFile(direct_only=False)


def test_the_library_of_nvidias_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def library(name: str, **how: bool) -> object:
        opened.append(name)
        if "/" not in name:
            raise OSError(name)
        return object()

    path = tmp_path / "nvidia" / "cufile" / "lib" / "libcufile.so.0"
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ctypes, "CDLL", library)
    binding._library()
    assert opened == ["libcufile.so.0", str(path)]


@pytest.mark.parametrize("name", ["cufile", "threads"])
def test_a_wrong_byte_ends_the_measurement_before_it_begins(
    driver: FakeCuda, gpu: Gpu, library: FakeCuFile, file: Path, name: str
) -> None:
    config = StorageConfig(kind="posix", root=str(file.parent), read_streams=2, engine="threads")
    library.corrupts = True
    driver.corrupts = "each"
    with opened_cufile(gpu, file) as (cufile, _):
        way = (
            by_cufile(gpu, cufile, file, READS)
            if name == "cufile"
            else through_host(gpu, config, file, READS)
        )
        said = rf"GPU 0: {name}, 4096 bytes at 0 of .*file: found 1 wrong bytes in the GPU's memory"
        with pytest.raises(CudaError, match=said):
            asyncio.run(measure(way, file, BLOCK * BLOCKS, READS, 0.0))
