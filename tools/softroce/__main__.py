"""Run a command on a machine with RDMA: a small virtual one, whose kernel has Soft-RoCE (rdma_rxe).

    python tools/softroce [--timeout 900] -- pytest tests/contract -k verbs

The guest boots this machine's own files, read-only with changes kept in memory, and Debian's kernel, which is
fetched once into ~/.cache/dualpath/softroce (or $DUALPATH_CACHE). The command runs as root in this folder
with this environment's PATH; what it prints is printed here, its exit status is this one's. Without QEMU or
kernel image, or as another user than root, it says so and exits with 77 (skipped).
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

EXIT_SKIPPED = 77
EXIT_TIMEOUT = 124
_PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "modprobe": "kmod",
    "rdma": "iproute2",
}
_BOOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
_GUEST_MODULES = ("crc32_generic", "rdma_rxe", "ib_uverbs", "rdma_ucm", "ib_umad")
"""The kernel asks for others itself. rdma_rxe without crc32_generic attaches to no interface."""
_HERE = Path(__file__).resolve().parent


class Skipped(Exception):
    """The guest cannot be had here, and why."""


def main() -> int:
    """Fetch what is missing, boot, run, report."""
    parser = argparse.ArgumentParser(
        prog="softroce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--timeout", type=float, default=900, help="seconds for all of it, the boot included")
    parser.add_argument("--skip-ok", action="store_true", help="exit with 0 where it is skipped")
    parser.add_argument("command", nargs="+", help="what to run in the guest")
    arguments = parser.parse_args()
    try:
        _check_programs()
        kernel = _kernel(_cache())
        initramfs = _initramfs(kernel)
    except Skipped as reason:
        print(f"\n*** SKIPPED, nothing was tested over RDMA: {reason} ***\n", flush=True)
        return 0 if arguments.skip_ok else EXIT_SKIPPED
    return run(kernel, initramfs, arguments.command, arguments.timeout)


def run(kernel: Path, initramfs: Path, command: Sequence[str], timeout_s: float) -> int:
    """Boot, run the command, and return its exit status; the guest is gone afterwards in any case."""
    with tempfile.TemporaryDirectory(prefix="dualpath-softroce-") as share:
        Path(share, "command").write_text(_script(kernel, command))
        began_at = time.monotonic()
        with subprocess.Popen(_qemu(kernel, initramfs, share), stdin=subprocess.DEVNULL) as guest:
            try:
                guest.wait(timeout_s)
            except subprocess.TimeoutExpired:
                print(f"softroce: not done within {timeout_s:g} s, ended", file=sys.stderr)
                return EXIT_TIMEOUT
            finally:
                guest.kill()
        status = Path(share, "status")
        if not status.exists():
            print(
                "softroce: the guest ended without running the command; its console is above", file=sys.stderr
            )
            return 1
        print(f"softroce: guest ran {time.monotonic() - began_at:.0f} s", flush=True)
        return int(status.read_text())


def _check_programs() -> None:
    if os.geteuid() != 0:
        raise Skipped("it needs root, to share this machine's files with the guest")
    if missing := [package for program, package in _PROGRAMS.items() if shutil.which(program) is None]:
        raise Skipped(f"apt-get install {' '.join(missing)}")


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("DUALPATH_CACHE") or Path(home, "dualpath"), "softroce")
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _kernel(cache: Path) -> Path:
    """A folder with boot/vmlinuz-VERSION and lib/modules/VERSION of Debian's kernel."""
    if found := sorted(cache.glob("linux-image-*/boot/vmlinuz-*")):
        return found[-1].parent.parent
    package = _image_package()
    print(f"softroce: fetching {package}", flush=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        _quiet(["apt-get", "download", package], scratch)
        (deb,) = Path(scratch).glob("*.deb")
        unpacked = Path(scratch, package)
        _quiet(["dpkg", "-x", str(deb), str(unpacked)], scratch)
        _quiet(["depmod", "-b", str(unpacked), package.removeprefix("linux-image-")], scratch)
        return unpacked.rename(cache / package)


def _image_package() -> str:
    """The image that ``linux-image-amd64`` stands for at the moment."""
    with suppress(Skipped):  # lists that are there may do
        _quiet(["apt-get", "--quiet", "update"], ".")
    listed = _quiet(["apt-cache", "depends", "linux-image-amd64"], ".")
    depends = [line.split()[-1] for line in listed.splitlines() if "Depends: linux-image-" in line]
    if not depends:
        raise Skipped("apt knows no linux-image-amd64")
    return depends[0]


def _version(kernel: Path) -> str:
    return kernel.name.removeprefix("linux-image-")


def _initramfs(kernel: Path) -> Path:
    """busybox, the modules that reach this machine's files, and the script that changes over to them."""
    image = kernel / "initramfs.cpio"
    init = _HERE / "init"
    if image.exists() and image.stat().st_mtime > init.stat().st_mtime:
        return image
    with tempfile.TemporaryDirectory(dir=kernel) as scratch:
        root = Path(scratch, "root")
        (root / "bin").mkdir(parents=True)
        (root / "modules").mkdir()
        busybox = shutil.which("busybox")
        assert busybox, "checked before"
        shutil.copy(busybox, root / "bin" / "busybox")
        shutil.copy(init, root / "init")
        (root / "init").chmod(0o755)
        files = _module_files(kernel, _BOOT_MODULES)
        for index, file in enumerate(files):
            shutil.copy(file, root / "modules" / f"{index:02d}-{file.name}")
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        archive = Path(scratch, "image")
        with archive.open("wb") as output:
            subprocess.run(
                ["cpio", "-o", "-H", "newc", "--quiet"],
                input=names.encode(),
                stdout=output,
                cwd=root,
                check=True,
            )
        return archive.rename(image)


def _module_files(kernel: Path, modules: Sequence[str]) -> list[Path]:
    """Files in the order of loading, dependencies first; what is built in has none."""
    files: dict[str, None] = {}
    for module in modules:
        command = ["modprobe", "-S", _version(kernel), "-d", str(kernel), "--show-depends", module]
        for line in _quiet(command, ".").splitlines():
            if line.startswith("insmod "):
                files[line.split()[1]] = None
    return [Path(file) for file in files]


def _script(kernel: Path, command: Sequence[str]) -> str:
    """What the guest runs once it has this machine's files."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("DUALPATH_")}
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items())
    return (
        "mkdir -p /lib/modules\n"
        f"{exports}\n"
        f"ln -s {shlex.quote(str(kernel))}/lib/modules/{_version(kernel)} /lib/modules/\n"
        f"modprobe -a {' '.join(_GUEST_MODULES)}\n"
        f"cd {shlex.quote(os.getcwd())} && {shlex.join(command)}\n"
    )


def _qemu(kernel: Path, initramfs: Path, share: str) -> list[str]:
    # A CPU without AVX, whose emulation was new in QEMU 7.2.
    # By emulation everywhere: where machines are virtual themselves, /dev/kvm may open and yet run no stock
    # kernel, which then stops before it says anything.
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
        "-accel", "tcg,thread=multi", "-cpu", "Nehalem", "-smp", "2", "-m", "3072", "-net", "none",
        "-no-reboot",
        "-kernel", str(next((kernel / "boot").glob("vmlinuz-*"))),
        "-initrd", str(initramfs),
        "-append", "console=ttyS0 quiet panic=-1 mitigations=off",
        "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        "-virtfs", f"local,path={share},mount_tag=share,security_model=none",
    ]  # fmt: skip


def _quiet(command: Sequence[str], folder: str) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or "").strip().splitlines()
        raise Skipped(f"{shlex.join(command)}: {said[-1] if said else error}") from error
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
