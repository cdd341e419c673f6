"""What the options of ``dualpath bench`` say, in the types that are measured with."""

from __future__ import annotations

from typing import Annotated, TypeVar

import typer

from harness.experiment import ExperimentError

RoundsOption = Annotated[int, typer.Option(min=1, help="Times that every tool measures, A B B A.")]
SecondsOption = Annotated[float, typer.Option(min=0.1, help="Length of one measurement.")]

_SUFFIXES = {"k": 2**10, "m": 2**20, "g": 2**30}
_Name = TypeVar("_Name", bound=str)


def names(option: str, text: str, known: dict[str, _Name]) -> list[_Name]:
    """``tcp,nixl`` as those, each once; ExperimentError for one that is not ``known``."""
    for name in text.split(","):
        if name.strip() not in known:
            raise ExperimentError(f"--{option}: found '{name}', expected some of {', '.join(known)}")
    return list(dict.fromkeys(known[name.strip()] for name in text.split(",")))


def sizes(option: str, text: str) -> list[int]:
    """``64K,1M`` in bytes; ExperimentError for anything else."""
    sizes = []
    for part in text.split(","):
        number, factor = part.strip(), 1
        if number and number[-1].lower() in _SUFFIXES:
            number, factor = number[:-1], _SUFFIXES[number[-1].lower()]
        if not number.isdigit() or not int(number):
            raise ExperimentError(f"--{option}: found '{part}', expected bytes such as 4096, 64K, 1M or 1G")
        sizes.append(int(number) * factor)
    return sizes


def at_most(file_bytes: int, blocks: list[int]) -> list[int]:
    """``blocks``; ExperimentError for one that is larger than the file it is read from."""
    for nbytes in blocks:
        if nbytes > file_bytes:
            most = in_words(file_bytes)
            raise ExperimentError(
                f"--block: found {in_words(nbytes)}, expected at most the file's {most} (--size)"
            )
    return blocks


def in_words(nbytes: int) -> str:
    """``1MiB`` where it is so many of them, else bytes."""
    for suffix, factor in reversed(_SUFFIXES.items()):
        if nbytes % factor == 0:
            return f"{nbytes // factor}{suffix.upper()}iB"
    return f"{nbytes} B"
