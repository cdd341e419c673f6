"""A run in several attempts: which repetitions are whose, and what differed between them.

Repetitions are compared as if measured in one go. That holds as far as the storage paths still carry what
they did, and the hosts are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import msgspec

from reports.ceilings import drifted, payload_rate
from reports.metadata import Attempt, Host, Metadata
from reports.table import Table, flat
from reports.units import ABSENT


def attempt_warnings(metadata: Metadata) -> Iterator[str]:
    """Nothing of a run in one go. Later attempts are held against the first that measured anything."""
    attempts = _with_what_was_kept(metadata)
    if len(attempts) < 2:
        return
    yield f"resumed: {', then '.join(attempts_in_words(metadata))}"
    measured = [attempt for attempt in attempts if attempt.repetitions]
    for later in measured[1:]:
        for host, words in drifted(measured[0].ceilings, later.ceilings).items():
            yield f"ceiling of {host} differs between attempts: {words}"
        yield from _other_hosts(measured[0].hosts, later.hosts)


def attempts_in_words(metadata: Metadata) -> list[str]:
    """``repetitions 0-2 (began ..., interrupted while ...)``, and so on."""
    return [_in_words(attempt) for attempt in _with_what_was_kept(metadata)]


def attempt_table(metadata: Metadata) -> Table:
    """A row an attempt; no rows of a run in one go."""
    rows = [
        [
            str(number),
            attempt.began_at,
            ranges(attempt.repetitions) or "none",
            attempt.ended or ABSENT,
            ", ".join(f"{host} {payload_rate(ceiling)}" for host, ceiling in attempt.ceilings.items())
            or ABSENT,
        ]
        for number, attempt in enumerate(_with_what_was_kept(metadata), start=1)
    ]
    columns = ["attempt", "began", "repetitions", "ended", "ceilings, emulated (measured payload)"]
    return Table("Attempts", columns, rows if len(rows) > 1 else [], numeric=False)


def ranges(numbers: Iterable[int]) -> str:
    """``[0, 1, 2, 5]`` -> ``0-2, 5``."""
    consecutive = groupby(enumerate(sorted(numbers)), key=lambda indexed: indexed[1] - indexed[0])
    spans = [[number for _, number in span] for _, span in consecutive]
    return ", ".join(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)


def _in_words(attempt: Attempt) -> str:
    kept = f"repetitions {ranges(attempt.repetitions)}" if attempt.repetitions else "none"
    ended = f", {attempt.ended}" if attempt.ended else ""
    return f"{kept} (began {attempt.began_at}{ended})"


def _with_what_was_kept(metadata: Metadata) -> list[Attempt]:
    """The attempts without the repetitions that a later one measured again, each ``ended`` on one line."""
    last = {
        number: index for index, attempt in enumerate(metadata.attempts) for number in attempt.repetitions
    }
    return [
        msgspec.structs.replace(
            attempt,
            repetitions=[number for number in attempt.repetitions if last[number] == index],
            ended=" ".join(attempt.ended.split()),
        )
        for index, attempt in enumerate(metadata.attempts)
    ]


def _other_hosts(before: Sequence[Host], after: Sequence[Host]) -> Iterator[str]:
    """A line a change, with the hosts that share it."""
    earlier, later = ({host.name: _properties(host) for host in hosts} for hosts in (before, after))
    if earlier and later and earlier.keys() != later.keys():
        yield f"hosts differ between attempts: {', '.join(earlier)}, then {', '.join(later)}"
    changed: dict[str, list[str]] = {}
    for name, known in earlier.items():
        for key, value in known.items():
            now = later.get(name, known).get(key, ABSENT)
            if now != value:
                changed.setdefault(f"{key} differs between attempts: {value}, then {now}", []).append(name)
    yield from (f"{words} on {', '.join(names)}" for words, names in changed.items())


def _properties(host: Host) -> Mapping[str, str]:
    known = msgspec.to_builtins(host)
    return {key.removeprefix("facts."): str(value) for key, value in flat(known) if key != "name"}
