"""The KV store: there, writable, reached through the storage NIC, with room, and read as intended."""

from __future__ import annotations

from collections.abc import Iterator

from harness.preflight.case import AS_ROOT, Case, in_words
from harness.preflight.facts import Store
from harness.preflight.findings import Finding

_WRITTEN, _REMOVED = (200, 201, 204), (200, 204)


def store(case: Case) -> Iterator[Finding]:
    """A small file, or object, was written, read back and removed."""
    found = case.store
    if found is None:
        return
    problems = list(_directory(case, found) if found.mount else _server(found))
    for evidence, fix in problems:
        yield case.error("storage", f"{found.place}: {evidence}", fix)
    if not problems:
        what = found.file_system if found.mount else f"server at {found.server}"
        yield case.ok("storage", f"{found.place}: {what}, written and read")


def _directory(case: Case, found: Store) -> Iterator[tuple[str, str]]:
    """Each problem and its fix."""
    if found.error:
        yield found.error, "a mount that hangs: is its server there? umount -l it, mount it again"
    elif not found.directory:
        yield (
            f"no such directory, on {found.mounted_at} ({found.file_system}): not mounted?",
            f"mount it there ({AS_ROOT}), or correct storage.mount in the inventory",
        )
    elif found.write_error:
        user = case.facts.machine.user
        fix = f"name a directory that {user} owns: mkdir DIR && chown {user} DIR ({AS_ROOT})"
        if "space" in found.write_error or "quota" in found.write_error:
            fix = "free space there, raise the quota, or name another directory in the inventory"
        yield f"cannot be written by {user}: {found.write_error}", fix


def _server(found: Store) -> Iterator[tuple[str, str]]:
    """Each problem and its fix."""
    if found.error:
        yield (
            f"{found.server} does not answer: {found.error}",
            "start the server, open its port, or correct storage.url in the inventory",
        )
        return
    if found.put_status not in _WRITTEN:
        yield (
            f"PUT answered {found.put_status}, expected 201 or 204",
            "let the server write there, with space left (nginx: dav_methods PUT DELETE; "
            "create_full_put_path on; client_max_body_size 0)",
        )
        return
    if found.get_status != 206 or not found.get_intact:
        body = "" if found.get_intact else ", other bytes than were put"
        yield (
            f"GET of a range answered {found.get_status}{body}; expected 206",
            "name a server that answers ranges (RFC 9110, 14)",
        )
    if found.delete_status not in _REMOVED:
        yield (
            f"DELETE answered {found.delete_status}, expected 204: a run could not remove what it wrote",
            "let the server delete there (nginx: dav_methods PUT DELETE)",
        )


def path(case: Case) -> Iterator[Finding]:
    """Reads cross the storage NIC, or the run measures something else."""
    found, nic = case.store, case.host.storage_nic
    if found is None or nic is None:
        return
    if found.route is None:
        if found.directory:
            yield case.info(
                "storage path",
                f"{found.place}: a {found.file_system} mount of {found.source} does not say where its server "
                f"is: whether reads cross {nic.name} is not known",
                f"compare {nic.name}'s counters before and after a run; the report does",
            )
    elif found.route.error:
        yield case.error(
            "storage path",
            f"{found.server}: {found.route.error}",
            "correct storage.url in the inventory, or the host's name service and routes",
        )
    elif found.route.device != nic.name:
        route = found.route
        yield case.error(
            "storage path",
            f"{found.place}: its server {route.address or found.server} is reached through {route.device}"
            f"{f' ({route.source})' if route.source else ''}, not through the storage NIC {nic.name}",
            f"name {route.device} as storage_nic, or the server by its address on {nic.name}'s network, or "
            f"ip route add {route.address or 'SERVER'} dev {nic.name} ({AS_ROOT})",
        )
    else:
        yield case.ok("storage path", f"{found.server} is reached through {nic.name}")


def room(case: Case) -> Iterator[Finding]:
    """The sessions' past, and what a repetition persists, fit."""
    found, needs = case.store, case.needs
    if found is None or needs is None or not needs.storage_bytes:
        return
    if found.free_bytes is None:
        if found.url:
            yield case.info(
                "storage room",
                f"{found.place}: cannot be asked; {in_words(needs.storage_bytes)} will be written",
            )
    elif found.free_bytes < needs.storage_bytes:
        yield case.error(
            "storage room",
            f"{found.place}: {in_words(found.free_bytes)} free, expected {in_words(needs.storage_bytes)} "
            "for what the experiment primes and persists",
            "free space there, name another place in the inventory, or replay fewer agents or turns",
        )
    else:
        yield case.ok(
            "storage room", f"{in_words(found.free_bytes)} free, {in_words(needs.storage_bytes)} needed"
        )


def cache(case: Case) -> Iterator[Finding]:
    """Reads past the host's page cache need O_DIRECT; reads through it may not be reads at all."""
    found, needs = case.store, case.needs
    if case.host.role == "storage" or found is None or needs is None or found.direct_error is None:
        return
    if needs.cache == "page":
        yield case.warning(
            "storage cache",
            f"{found.place}: reads go through this host's page cache, whose hits never cross the storage NIC",
            'set storage.cache = "direct" in the experiment'
            + (f"; not here: {found.direct_error}" if found.direct_error else ""),
        )
    elif found.direct_error:
        yield case.error(
            "storage cache",
            f"{found.place}: {found.file_system} refuses O_DIRECT: {found.direct_error}",
            'name a file system that has it, or set storage.cache = "page" in the experiment',
        )
    else:
        yield case.ok("storage cache", f"{found.place}: O_DIRECT works, blocks of {found.block_bytes} bytes")
