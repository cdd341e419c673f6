"""What a host does about bundles: look, install, prune. Sent to the host's Python on its standard input.

    python3 -I -S - look|install|prune REQUEST

It has the standard library alone, and keeps to a grammar that Python 3.6 reads, so that one too old can say
so. REQUEST and the answer, which is the last line of output, are JSON, as `host_calls.py` has them; what
cannot be done is said in words on standard error, with exit status 1.

    bundles/incoming/SHA256     a wheel as it was uploaded, until it is unpacked
    bundles/wheels/SHA256/      an unpacked wheel, whole
    bundles/environments/ID/    a bundle for one Python: bin/python, which finds its wheels, and `lock`
    bundles/lock                held exclusively by who installs or prunes, shared by who looks
    bundles/store               names these bundles, for hosts that share a directory

An environment is what `venv` makes, pyvenv.cfg and bin/, with a .pth file that names its packages: bundles
share their wheels, so another version of our own code costs a host one small one. Who runs in an environment
holds its `lock`, shared, which the kernel frees with the process; the file's time is that of the last use.
"""

import contextlib
import csv
import errno
import fcntl
import hashlib
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if sys.version_info < (3, 11):  # noqa: UP036 - a host's, whatever it is
    print(json.dumps({"python": platform.python_version()}))  # noqa: T201
    sys.exit(0)

_IMPORT_TIMEOUT_S = 120.0
_ABANDONED_UPLOAD_S = 86400.0
_PTH = "bundle.pth"


def look(directory: str, bundle: str) -> dict[str, Any]:
    """What this host is, and whether the bundle is whole here; if it is, this was its last use.

    While something is being installed or pruned it is not, yet.
    """
    directory = os.path.expanduser(directory)
    root = Path(directory, "bundles")
    environment = _environment(root, bundle)
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "abi": _abi(),
        "machine": platform.machine(),
        "libc": _libc(),
        "directory": directory,
        "environment": str(environment),
        "obstacle": _obstacle(root),
    }
    if not found["obstacle"]:
        found["store"] = _store(root)
        with _locked(root, fcntl.LOCK_SH | fcntl.LOCK_NB) as quiet:
            found["complete"] = quiet and _complete(environment)
            if found["complete"]:
                (environment / "lock").touch()
    return found


def install(directory: str, bundle: str, wheels: list[str], module: str) -> dict[str, Any]:
    """Make the bundle's environment of its wheels, unless some have to be uploaded first, or again.

    It appears once ``module`` has been imported in it.
    """
    root = Path(directory, "bundles")
    environment = _environment(root, bundle)
    needed: list[str] = []
    with _locked(root, fcntl.LOCK_EX):
        if not _complete(environment):
            needed = [sha256 for sha256 in wheels if not _have(root, sha256)]
            if not needed:
                with _draft(environment) as draft:
                    _make_environment(draft, wheels)
                    _import(module, draft)
        if not needed:
            (environment / "lock").touch()
            for sha256 in wheels:
                # Of somebody who was late to deploy the same.
                (root / "incoming" / sha256).unlink(missing_ok=True)
    return {"needed": needed, "free_bytes": shutil.disk_usage(root).free}


def prune(directory: str, unused_s: float) -> dict[str, Any]:
    """Remove environments that nobody runs in and whose last use is so long ago, then what no other needs."""
    root = Path(os.path.expanduser(directory), "bundles")
    removed: list[str] = []
    if root.is_dir():
        with _locked(root, fcntl.LOCK_EX):
            needed: set[str] = set()
            for environment in sorted((root / "environments").glob("*")):
                reason = _useless(environment, unused_s)
                if reason:
                    shutil.rmtree(environment)
                    removed.append(f"{environment} ({reason})")
                else:
                    needed.update(_wheels(environment))
            for wheel in sorted((root / "wheels").glob("*")):
                if wheel.name not in needed:
                    shutil.rmtree(wheel)
                    removed.append(f"{wheel} (of no bundle)")
            for upload in sorted((root / "incoming").glob("*")):
                if _age_s(upload) >= min(unused_s, _ABANDONED_UPLOAD_S):
                    upload.unlink()
                    removed.append(f"{upload} (an abandoned upload)")
    return {"removed": removed}


def _obstacle(root: Path) -> str:
    """Why bundles cannot be here, with the fix, or nothing; makes their folders."""
    if not root.is_absolute():
        return f"found directory '{root.parent}', expected an absolute path, or one that begins with '~'"
    other = "or name another 'directory' in the inventory"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("incoming", "wheels", "environments"):
            (root / name).mkdir(exist_ok=True)
        with _locked(root, fcntl.LOCK_SH | fcntl.LOCK_NB):
            status, mounted = root.stat(), os.statvfs(root)
    except OSError as error:
        return f"cannot write in {root}: {error}; fix: make it writable to user {os.getuid()}, {other}"
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        return (
            f"{root}: found one of user {status.st_uid} with mode {status.st_mode & 0o777:o}, expected one "
            f"that only user {os.getuid()} writes, as programs start from it; fix: remove it, {other}"
        )
    if mounted.f_flag & os.ST_NOEXEC:
        return f"{root} is on a file system mounted noexec, where no library loads; fix: remount it, {other}"
    if shutil.which("flock") is None:
        return "found no flock(1), which holds a bundle while it is in use; fix: install util-linux"
    return ""


def _environment(root: Path, bundle: str) -> Path:
    """Where the bundle is for this Python on this kind of machine, of which a shared home sees several."""
    identity = "\n".join([bundle, _executable(), _abi(), platform.machine(), _libc()])
    return root / "environments" / hashlib.sha256(identity.encode()).hexdigest()[:32]


def _executable() -> str:
    """This Python; the one that a virtual environment was made from, if it is such."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _abi() -> str:
    return f"cp{sys.version_info.major}{sys.version_info.minor}{sys.abiflags}"


def _libc() -> str:
    """Such as ``glibc 2.36``; empty for another C library, which does not know the name."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):
        return ""


def _store(root: Path) -> str:
    """The name of these bundles, given by whoever looks first: making a symbolic link is one step."""
    with contextlib.suppress(FileExistsError):
        (root / "store").symlink_to(secrets.token_hex(8))
    return os.readlink(root / "store")


@contextlib.contextmanager
def _locked(folder: Path, mode: int) -> Iterator[bool]:
    """Hold a folder's lock, or say that somebody else does (LOCK_NB).

    It is open for reading and writing, as a lock of either mode over NFS wants it.
    """
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, mode)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextlib.contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A folder to fill, which then takes the place of ``folder``."""
    draft = folder.with_name(f".new-{secrets.token_hex(8)}")
    draft.mkdir()
    try:
        yield draft
        shutil.rmtree(folder, ignore_errors=True)
        try:
            draft.rename(folder)
        except OSError as error:
            # Another host of a shared home has made it, which this one's cache of it does not show yet.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _complete(environment: Path) -> bool:
    """Whether nothing of it is missing or cut short: by who tidies /tmp, or when a host loses power."""
    wheels = _wheels(environment)
    folder = environment.parent.parent / "wheels"
    return bool(wheels) and (environment / "bin/python").exists() and all(_whole(folder / w) for w in wheels)


def _wheels(environment: Path) -> list[str]:
    """The wheels that its .pth file names; none if there is no such file."""
    pth = next(environment.glob(f"lib/*/site-packages/{_PTH}"), None)
    return [] if pth is None else [Path(line).name for line in pth.read_text().splitlines()]


def _whole(wheel: Path) -> bool:
    """Whether every file that the unpacked wheel's RECORD names is there, in its size."""
    record = next(wheel.glob("*.dist-info/RECORD"), None)
    if record is None:
        return False
    try:
        with record.open(newline="", encoding="utf-8") as lines:
            return all(
                not size or (wheel / name).stat().st_size == int(size) for name, _, size in csv.reader(lines)
            )
    except (OSError, ValueError):
        return False


def _have(root: Path, sha256: str) -> bool:
    """Whether the wheel is there, or has been uploaded as it should be and now is."""
    folder, upload = root / "wheels" / sha256, root / "incoming" / sha256
    if not _whole(folder) and upload.exists():
        with upload.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                with _draft(folder) as draft, zipfile.ZipFile(file) as wheel:
                    wheel.extractall(draft)
    upload.unlink(missing_ok=True)
    return _whole(folder)


def _make_environment(draft: Path, wheels: list[str]) -> None:
    executable = _executable()
    (draft / "bin").mkdir()
    (draft / "bin/python").symlink_to(executable)
    (draft / "pyvenv.cfg").write_text(
        f"home = {os.path.dirname(executable)}\ninclude-system-site-packages = false\n", encoding="utf-8"
    )
    packages = draft / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    packages.mkdir(parents=True)
    (packages / _PTH).write_text("".join(f"../../../../../wheels/{wheel}\n" for wheel in wheels))
    (draft / "lock").touch()


def _import(module: str, environment: Path) -> None:
    """Import it, which also compiles what it needs; SystemExit with its last words if that fails."""
    python = environment / "bin/python"
    done = subprocess.run(
        [python, "-I", "-c", f"import {module}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_IMPORT_TIMEOUT_S,
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        sys.exit(f"cannot import {module} with {_executable()} {platform.python_version()}: {last}")


def _useless(environment: Path, unused_s: float) -> str:
    """Why it can go, or nothing: it is in use, or was lately."""
    with _locked(environment, fcntl.LOCK_EX | fcntl.LOCK_NB) as ours:
        age_s = _age_s(environment / "lock")
    if not ours:
        return ""
    if not _wheels(environment) or environment.name.startswith("."):
        return "not finished"
    return f"unused for {age_s / 86400:.0f} days" if age_s >= unused_s else ""


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def main() -> None:
    """Do what the command line says and print the answer."""
    commands: dict[str, Callable[..., dict[str, Any]]] = {"look": look, "install": install, "prune": prune}
    command, request = sys.argv[1:]
    try:
        answer = commands[command](**json.loads(request))
    except (OSError, subprocess.SubprocessError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "; fix: free some space, or name another 'directory' in the inventory" if full else ""
        sys.exit(f"bundles: cannot {command}: {error}{fix}")
    print(json.dumps(answer))  # noqa: T201


if __name__ == "__main__":
    main()
