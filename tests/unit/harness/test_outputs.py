"""What the command leaves for a CI, and its exit status, however it ends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from stored_run_builder import StoredRunBuilder

from harness.cli import main
from harness.host_error import HostError
from harness.run import DeadlineError
from harness.run_store import RunStore

Command = Callable[..., tuple[int, str, str]]


class Wanted:
    """The files that a CI asks for."""

    def __init__(self, directory: Path) -> None:
        self.junit, self.summary = directory / "out" / "junit.xml", directory / "out" / "summary.md"
        self.options = ["--junit", str(self.junit), "--summary", str(self.summary)]

    def outcomes(self, kind: str) -> dict[str, str]:
        """Message by case, of those with that outcome."""
        return {
            f"{case.get('classname')}/{case.get('name')}": element.get("message", "")
            for case in ET.parse(self.junit).iter("testcase")
            if (element := case.find(kind)) is not None
        }


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    return Wanted(tmp_path)


@pytest.fixture
def dualpath(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """The command in this process: exit status, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["dualpath", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int | None)
        return exit_.value.code or 0, captured.out, captured.err

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets ``dualpath run`` find these records measured, and end as given."""

    def prepare(builder: StoredRunBuilder | None, error: BaseException | None = None) -> None:
        def measure(_: object, directory: Path, *__: object, **___: object) -> RunStore:
            if builder is not None:
                builder.write(directory)
            if error is not None:
                raise error
            return RunStore(directory, builder.metadata if builder else {})

        monkeypatch.setattr("harness.run_cli.measure", measure)

    return prepare


def sound(**kinds: object) -> StoredRunBuilder:
    return StoredRunBuilder(sessions=6, turns=6, **kinds)  # type: ignore[arg-type]


def cut_short() -> StoredRunBuilder:
    builder = sound()
    builder.metadata |= {"status": "failed", "failure": "host p0: lost"}
    builder.metadata["repetitions"][3]["complete"] = False
    return builder


def run(tmp_path: Path) -> list[str]:
    return ["run", "demo", "--mode", "loopback", "--out", str(tmp_path / "run")]


def test_0_a_valid_result(
    tmp_path: Path, wanted: Wanted, dualpath: Command, measured: Callable[..., None]
) -> None:
    measured(sound())
    status, stdout, _ = dualpath(*run(tmp_path), *wanted.options, "--fail-below", "1.5")
    assert status == 0
    assert "dual_path is 1." in stdout
    assert wanted.outcomes("failure") == wanted.outcomes("error") == {}
    assert '<property name="status" value="complete" />' in wanted.junit.read_text()
    assert wanted.summary.read_text().startswith("## io\\_bound\\_synthetic\n\n**dual\\_path is 1.")


def test_1_an_invalid_run(tmp_path: Path, wanted: Wanted, dualpath: Command) -> None:
    builder = sound()
    builder.metadata["repetitions"][0]["mismatched_blocks"] = 1
    status, stdout, _ = dualpath("report", str(builder.write(tmp_path / "run")), *wanted.options)
    assert status == 1
    assert "INVALID: KV content is wrong" in stdout
    assert "dualpath.io_bound_synthetic.gates/kv_content" in wanted.outcomes("failure")
    assert wanted.outcomes("error") == {}


def test_1_a_speedup_below_the_threshold(tmp_path: Path, wanted: Wanted, dualpath: Command) -> None:
    directory = sound().write(tmp_path / "run")
    status, stdout, _ = dualpath("report", str(directory), *wanted.options, "--fail-below", "2.5")
    assert status == 1
    assert "\nFAILED: speedup below the threshold: " in stdout
    assert list(wanted.outcomes("failure")) == ["dualpath.io_bound_synthetic.comparison/speedup"]
    assert "**speedup below the threshold: " in wanted.summary.read_text()
    assert dualpath("report", str(directory), "--fail-below", "2.5")[0] == 1
    assert dualpath("report", str(directory), "--fail-below", "1.5")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "case", "says"),
    [
        (["run", "io_bound_1p1"], "dualpath.io_bound_1p1/run", "did you mean 'io_bound_1p1d'"),
        (["run", "/no/such/rack.toml"], "dualpath.rack/run", "/no/such/rack.toml: "),
        (["report", "/no/such/run"], "dualpath.run/run", "/no/such/run/metadata.json: cannot be read"),
    ],
)
def test_2_bad_input(arguments: list[str], case: str, says: str, wanted: Wanted, dualpath: Command) -> None:
    status, stdout, errors = dualpath(*arguments, *wanted.options)
    assert (status, stdout) == (2, "")
    [(name, message)] = wanted.outcomes("error").items()
    assert name == case
    assert says in message
    assert errors == f"dualpath: {message}\n"
    assert "**Failed: " in wanted.summary.read_text()


def test_2_a_run_directory_that_is_taken_is_not_the_runs(
    tmp_path: Path, wanted: Wanted, dualpath: Command
) -> None:
    sound().write(tmp_path / "run")
    assert dualpath(*run(tmp_path), *wanted.options)[0] == 2
    [(name, message)] = wanted.outcomes("error").items()
    assert name == "dualpath.demo/run"
    assert "not empty, expected a new or an empty directory" in message


@pytest.mark.parametrize(
    "error", [HostError("p0", "its agent process ended"), DeadlineError("measurement.deadline_s: too late")]
)
def test_3_a_testbed_that_failed_leaves_what_was_measured(
    error: Exception, tmp_path: Path, wanted: Wanted, dualpath: Command, measured: Callable[..., None]
) -> None:
    measured(cut_short(), error)
    status, stdout, errors = dualpath(*run(tmp_path), *wanted.options)
    assert (status, stdout) == (3, "")
    [message] = wanted.outcomes("error").values()
    assert errors == f"dualpath: {message}\n"
    assert message.startswith(str(error))
    assert "dualpath.io_bound_synthetic.gates/run_ended" in wanted.outcomes("failure")
    assert "**Failed: " in wanted.summary.read_text()
    assert "| JCT, emulated (mean) |" in wanted.summary.read_text()


def test_3_where_nothing_was_measured_nothing_is_said_of_it(
    tmp_path: Path, wanted: Wanted, dualpath: Command, measured: Callable[..., None]
) -> None:
    builder = StoredRunBuilder(sessions=6, turns=6)
    builder.metadata |= {"status": "failed", "failure": "host p0: no GPU", "ceilings": {}, "repetitions": []}
    measured(builder, HostError("p0", "no GPU", told=True))
    status, _, errors = dualpath(*run(tmp_path), *wanted.options)
    assert (status, errors) == (3, "dualpath: host p0: no GPU\n")
    assert (tmp_path / "run" / "report.html").exists()


def test_3_a_testbed_that_failed_before_there_was_a_run(
    tmp_path: Path, wanted: Wanted, dualpath: Command, measured: Callable[..., None]
) -> None:
    measured(None, HostError("p0", "no route to host"))
    assert dualpath(*run(tmp_path), *wanted.options)[0] == 3
    assert wanted.outcomes("error") == {"dualpath.demo/run": "host p0: no route to host"}


def test_130_interrupted(
    tmp_path: Path, wanted: Wanted, dualpath: Command, measured: Callable[..., None]
) -> None:
    measured(cut_short(), KeyboardInterrupt())
    assert dualpath(*run(tmp_path), *wanted.options)[0] == 130
    [message] = wanted.outcomes("error").values()
    assert message.startswith("interrupted; what was measured: ")


def test_a_fault_of_the_testbeds_own_is_an_error_too(
    tmp_path: Path, wanted: Wanted, measured: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(None, ZeroDivisionError())
    monkeypatch.setattr("sys.argv", ["dualpath", *run(tmp_path), *wanted.options])
    monkeypatch.setattr("harness.run_cli.interrupts.install", lambda: None)
    with pytest.raises(ZeroDivisionError):
        main()
    assert wanted.outcomes("error") == {"dualpath.demo/run": "ZeroDivisionError"}


def test_while_it_runs_and_after_kill_9_yesterdays_file_is_gone(
    tmp_path: Path, wanted: Wanted, dualpath: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted.junit.parent.mkdir()
    wanted.junit.write_text("yesterday's")
    seen = {}

    def measure(*_: object, **__: object) -> RunStore:
        seen.update(wanted.outcomes("error"))
        raise HostError("p0", "lost")

    monkeypatch.setattr("harness.run_cli.measure", measure)
    dualpath(*run(tmp_path), *wanted.options)
    assert seen == {"dualpath.demo/run": "the run has not ended: it is still going on, or was killed"}


def test_sections_are_appended_to_the_summary(tmp_path: Path, wanted: Wanted, dualpath: Command) -> None:
    directory = sound().write(tmp_path / "run")
    wanted.summary.parent.mkdir()
    wanted.summary.write_text("# Nightly\n\n")
    for _ in range(2):
        dualpath("report", str(directory), "--summary", str(wanted.summary))
    text = wanted.summary.read_text()
    assert text.startswith("# Nightly\n\n## io")
    assert text.count("\n## io") == 2
    assert not wanted.junit.exists()


@pytest.mark.parametrize("option", ["--junit", "--summary"])
@pytest.mark.parametrize("place", ["/dev/null", "/proc/no/such", "."])
def test_a_file_that_cannot_be_written_is_found_before_the_run(
    option: str, place: str, tmp_path: Path, dualpath: Command, measured: Callable[..., None]
) -> None:
    measured(sound())
    status, stdout, errors = dualpath(*run(tmp_path), option, place)
    assert (status, stdout) == (2, "")
    assert place in errors
    assert not (tmp_path / "run").exists()


def test_a_disk_that_is_full_at_the_end_fails_a_valid_run(
    tmp_path: Path,
    wanted: Wanted,
    dualpath: Command,
    measured: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured(sound())
    written: list[Path] = []

    def full(path: Path, _: bytes) -> None:
        if written:
            raise OSError(28, "No space left on device")
        written.append(path)

    monkeypatch.setattr("harness.outputs.write_atomically", full)
    status, _, errors = dualpath(*run(tmp_path), *wanted.options)
    assert status == 3
    assert errors == f"dualpath: {wanted.junit}: the disk is full; free some space or choose another --out\n"


@pytest.mark.parametrize("threshold", ["-1", "fast"])
def test_a_threshold_is_a_ratio(threshold: str, dualpath: Command) -> None:
    status, _, errors = dualpath("report", "runs/x", "--fail-below", threshold)
    assert status == 2
    assert "--fail-below" in errors
