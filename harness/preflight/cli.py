"""``dualpath check`` and ``dualpath inventory``: what is wrong with a rack, and what there is on it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from harness.console import JsonOption, notes, out, print_json
from harness.experiment import ExperimentError, load_experiment
from harness.inventory import Inventory, InventoryHost, LauncherSection, StoragePlace, load_inventory
from harness.inventory.choosing import chosen_hosts, on_hosts
from harness.inventory.sections import Role, default_names
from harness.launchers import open_launcher
from harness.preflight.examine import Preflight, ask, examine
from harness.preflight.findings import Finding, one_line
from harness.preflight.first_inventory import common_mounts, first_inventory
from harness.preflight.judgement import Answer
from harness.preflight.needs import Needs, needs_of
from harness.preflight.table import print_preflight
from harness.preparation import prepare

EXIT_ERRORS, EXIT_NOBODY = 1, 3

inventory = typer.Typer(name="inventory", help="Write a first inventory of a rack.", no_args_is_help=True)

_HOST = re.compile(
    r"(?:(?P<name>[^=@]+)=)?(?:(?P<user>[^@]+)@)?(?P<address>\[[0-9A-Fa-f:.]+\]|[^:@\[\]]+)(?::(?P<port>\d+))?"
)
_ROLES: dict[str, Role] = {"prefill": "prefill", "decode": "decode", "storage": "storage"}


def check(
    experiment: Annotated[
        str | None,
        typer.Argument(
            help="What is to be run: a shipped experiment's name or a TOML file.", show_default=False
        ),
    ] = None,
    *,
    rack_file: Annotated[Path, typer.Option("--inventory", help="The rack, a TOML file.")],
    json: JsonOption = False,
) -> None:
    """Look at every host of a rack, or those that an experiment takes, and say all that is wrong, with the
    fix.

    Exit code 0: no errors; 1: errors; 2: a bad inventory or experiment; 3: no host answers.
    """
    rack = load_inventory(rack_file)
    needs = None
    if experiment is not None:
        loaded = load_experiment(experiment)
        rack = chosen_hosts(rack, loaded)
        needs = needs_of(prepare(on_hosts(loaded, rack)))
    preflight = asyncio.run(_examined(rack, needs))
    if json:
        print_json(
            {
                "inventory": rack.name,
                "errors": preflight.errors,
                "findings": preflight.findings,
                "facts": preflight.facts,
            }
        )
    else:
        print_preflight(preflight, rack, out)
    if not preflight.facts:
        raise typer.Exit(EXIT_NOBODY)
    if preflight.errors:
        raise typer.Exit(EXIT_ERRORS)


async def _examined(rack: Inventory, needs: Needs | None) -> Preflight:
    async with open_launcher(rack) as launcher:
        return await examine(launcher, rack, needs)


@inventory.command(
    "discover",
    epilog="Example: `dualpath inventory discover gpu01 gpu02 gpu03 --role prefill=1 --role decode=2 "
    "--storage /mnt/kv --option user=alice --out rack.toml`",
)
def discover(
    hosts: Annotated[
        list[str], typer.Argument(help="[NAME=][USER@]ADDRESS[:PORT], or what Slurm or Ray call the node.")
    ],
    role: Annotated[
        list[str] | None,
        typer.Option(help="ROLE=COUNT, for the hosts in turn [default: prefill=1, the rest decode]."),
    ] = None,
    storage: Annotated[
        str, typer.Option(help="Where the KV store is: a directory of every host, or http://HOST[:PORT].")
    ] = "",
    launcher: Annotated[Literal["ssh", "slurm", "ray"], typer.Option(help="How hosts are reached.")] = "ssh",
    option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of the inventory's [launcher], such as user=alice.")
    ] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="File to write [default: print it].", show_default=False)
    ] = None,
) -> None:
    """Look at hosts and write a first inventory: their NICs, RDMA devices, GPUs and NUMA nodes.

    Exit code 0: complete; 1: something is left to fill in; 2: bad arguments; 3: no host answers.
    """
    if out_file is not None and out_file.exists():
        raise ExperimentError(f"--out: {out_file}: exists, expected a new file")
    rack = default_names(
        Inventory(
            hosts=_hosts(hosts, _roles(role or [], len(hosts)), launcher),
            launcher=_launcher(launcher, option or []),
            storage=_place(storage),
        ),
        "discovered",
    )
    text, answers = asyncio.run(_discovered(rack))
    silent = [answer for answer in answers.values() if isinstance(answer, Finding)]
    for finding in silent:
        fix = f"; fix: {finding.fix}" if finding.fix else ""
        notes.print(one_line(f"{finding.host}: {finding.evidence}{fix}"))
    if len(silent) == len(answers):
        raise typer.Exit(EXIT_NOBODY)
    if out_file is None:
        typer.echo(text, nl=False)
        return
    out_file.write_text(text, encoding="utf-8")
    try:
        load_inventory(out_file)
    except ExperimentError as error:
        notes.print(f"to be completed: {error}")
        raise typer.Exit(EXIT_ERRORS) from None
    out.print(
        f"{out_file}: {len(answers)} hosts; look at its guesses, then dualpath check --inventory {out_file}"
    )


async def _discovered(rack: Inventory) -> tuple[str, dict[str, Answer]]:
    """The first inventory, and what it was made from."""
    async with open_launcher(rack) as launcher:
        answers = await ask(launcher, rack)
        if rack.storage is None and len(mounts := common_mounts(answers)) == 1:
            # Which NIC leads there, only another look tells.
            rack = msgspec.structs.replace(rack, storage=StoragePlace(mount=mounts[0]))
            answers = await ask(launcher, rack)
    return first_inventory(rack, answers), answers


def _roles(counts: Sequence[str], hosts: int) -> list[Role]:
    """A role a host, in turn."""
    roles: list[Role] = []
    for text in counts or ["prefill=1", f"decode={hosts - 1}"]:
        name, _, count = text.partition("=")
        if name not in _ROLES or not count.isdigit():
            raise ExperimentError(
                f"--role: found '{text}', expected ROLE=COUNT with one of {', '.join(_ROLES)}"
            )
        roles += [_ROLES[name]] * int(count)
    if len(roles) != hosts:
        raise ExperimentError(f"--role: found {len(roles)} roles for {hosts} hosts, expected one for each")
    return roles


def _hosts(texts: Sequence[str], roles: Sequence[Role], launcher: str) -> tuple[InventoryHost, ...]:
    hosts = []
    for text, role in zip(texts, roles, strict=True):
        match = _HOST.fullmatch(text)
        if match is None:
            raise ExperimentError(f"HOST: found '{text}', expected [NAME=][USER@]ADDRESS[:PORT]")
        address = match["address"].strip("[]")
        keys = {
            "name": match["name"] or address,
            "role": role,
            "address": address,
            "node": "" if launcher == "ssh" else address,
            "user": match["user"] or "",
            "port": int(match["port"] or 0),
        }
        try:
            hosts.append(msgspec.convert(keys, InventoryHost))
        except msgspec.ValidationError as error:
            raise ExperimentError(f"HOST: found '{text}': {error}; give it a name: NAME={text}") from None
    if len({host.name for host in hosts}) < len(hosts):
        raise ExperimentError("HOST: found one more than once, expected each once: a host has one role")
    return tuple(hosts)


def _launcher(kind: str, options: Sequence[str]) -> LauncherSection:
    """The section, values converted to its types."""
    keys: dict[str, str] = {"kind": kind}
    for text in options:
        key, equals, value = text.partition("=")
        if not equals:
            raise ExperimentError(f"--option: found '{text}', expected KEY=VALUE of [launcher]")
        keys[key] = value
    try:
        section: LauncherSection = msgspec.convert(keys, LauncherSection, strict=False)
    except msgspec.ValidationError as error:
        raise ExperimentError(f"--option: {error}") from None
    return section


def _place(text: str) -> StoragePlace | None:
    if not text:
        return None
    if text.startswith("/"):
        return StoragePlace(mount=text)
    if text.startswith("http://"):
        return StoragePlace(url=text)
    raise ExperimentError(
        f"--storage: found '{text}', expected an absolute path or http://HOST[:PORT][/PATH]"
    )
