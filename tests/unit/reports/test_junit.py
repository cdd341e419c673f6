"""JUnit XML: what a CI reads there of a run, and that whatever a run says leaves it well-formed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_run_builder import StoredRunBuilder

from reports import StoredRun, Summary, analyse
from reports.gates import GATES
from reports.junit import document, failed_document
from reports.junit_xml import Case, Kind, Outcome, Suite, to_xml
from reports.metadata import Metadata

KINDS: tuple[Kind, ...] = ("failure", "error", "skipped")
# XML 1.0, production 2.
LEGAL = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def analysed(builder: StoredRunBuilder, directory: Path) -> tuple[Metadata, Summary]:
    run = StoredRun.load(builder.write(directory / "run"))
    return run.metadata, analyse(run)


def cases(xml: str) -> dict[str, ET.Element]:
    """By class and name, with what they hold; all counts in the document are right."""
    root = ET.fromstring(xml.encode())
    for element in (root, *root.iter("testsuite")):
        inside = list(element.iter("testcase"))
        assert int(element.get("tests", "")) == len(inside) > 0
        for plural, kind in zip(("failures", "errors", "skipped"), KINDS, strict=True):
            assert int(element.get(plural, "")) == sum(case.find(kind) is not None for case in inside)
    found = {f"{case.get('classname')}/{case.get('name')}": case for case in root.iter("testcase")}
    assert len(found) == len(list(root.iter("testcase")))
    assert all(sum(case.find(kind) is not None for kind in KINDS) <= 1 for case in found.values())
    return found


def outcomes(xml: str, kind: Kind) -> dict[str, str]:
    """By case, without the experiment's name: the message of those with that outcome."""
    told = {name: case.find(kind) for name, case in cases(xml).items()}
    return {
        name.removeprefix("dualpath.io_bound_synthetic"): element.get("message", "")
        for name, element in told.items()
        if element is not None
    }


def properties(element: ET.Element) -> dict[str, str]:
    return {p.get("name", ""): p.get("value", "") for p in element.findall("properties/property")}


def test_a_sound_run_has_a_case_for_everything(tmp_path: Path) -> None:
    metadata, summary = analysed(StoredRunBuilder(sessions=3, turns=3), tmp_path)
    xml = document(metadata, summary)
    name = "dualpath.io_bound_synthetic"
    assert list(cases(xml)) == [
        f"{name}/run",
        *(f"{name}.gates/{gate.identifier}" for gate in GATES),
        f"{name}.policies/prefill_only",
        f"{name}.policies/dual_path",
        f"{name}.comparison/speedup",
    ]
    assert outcomes(xml, "failure") == outcomes(xml, "error") == {}
    assert set(outcomes(xml, "skipped")) == {
        ".gates/compute_nic_bytes",
        ".gates/some_rate_served",
        ".gates/gpu_clocks",
    }
    policy = cases(xml)[f"{name}.policies/dual_path"]
    jct_s = sum(summary.policies["dual_path"].jct_s) / 2
    assert float(policy.get("time", "")) == pytest.approx(jct_s, abs=1e-3)
    assert properties(policy)["bytes_read"] == properties(policy)["bytes_expected"] == str(2 * 9 * 600_000)
    assert float(properties(policy)["storage_nic.d0.busy_utilization"]) > 0.8
    assert float(properties(cases(xml)[f"{name}.comparison/speedup"])["ci_low"]) > 1
    suite = ET.fromstring(xml).find("testsuite")
    assert suite is not None
    assert properties(suite)["run_id"] == "synthetic-0001"
    assert properties(suite)["attempts"] == "one"


def test_a_gate_fails_with_all_its_problems_and_each_has_a_case(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=3, turns=3)
    for repetition in builder.metadata["repetitions"][:2]:
        repetition["turns"] -= 1
        repetition["control"] |= {"decision_s_total": 9.0, "cpu_s": 9.0}
    metadata, summary = analysed(builder, tmp_path)
    xml = document(metadata, summary)
    failed = outcomes(xml, "failure")
    assert failed[".gates/turns_served"].endswith("(and 1 more)")
    assert failed[".problems/turns_served: repetition 1 (dual_path)"] in summary.problems
    assert {name for name in failed if name.startswith(".gates")} == {
        ".gates/turns_served",
        ".gates/decision_time",
        ".gates/control_cpu",
    }
    assert len([name for name in failed if name.startswith(".problems")]) == len(summary.problems) == 6
    gate = cases(xml)["dualpath.io_bound_synthetic.gates/turns_served"].find("failure")
    assert gate is not None
    assert gate.text == "\n".join(line for line in summary.problems if line.startswith("turns missing"))


def test_names_do_not_depend_on_what_was_measured(tmp_path: Path) -> None:
    sound = StoredRunBuilder(sessions=3, turns=3)
    poor = StoredRunBuilder(sessions=3, turns=3, seed=2, read_bytes=60_000)
    poor.metadata |= {"status": "failed", "run_id": "another", "ceilings": {}}
    names = [list(cases(document(*analysed(b, tmp_path / b.metadata["status"])))) for b in (sound, poor)]
    assert [name for name in names[1] if ".problems/" not in name] == names[0]


def test_a_run_that_failed_early_is_an_error_and_its_policies_are_not_measured(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=1, turns=1)
    builder.metadata |= {"status": "failed", "failure": "no host came up", "repetitions": [], "ceilings": {}}
    (tmp_path / "metadata.json").write_text(json.dumps(builder.metadata))
    run = StoredRun.load(tmp_path)
    xml = document(run.metadata, analyse(run), error="host p0: no route to host", fail_below=1.5)
    assert outcomes(xml, "error") == {"/run": "host p0: no route to host"}
    failed = outcomes(xml, "failure")
    assert {".gates/run_ended", ".policies/prefill_only", ".policies/dual_path"} <= set(failed)
    assert "found none, expected 1.5x or more" in failed[".comparison/speedup"]
    assert ".gates/bytes_read" in outcomes(xml, "skipped")


def test_a_policy_fails_where_it_has_fewer_repetitions_than_the_experiment_asks_for(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=3, turns=3)
    builder.metadata["experiment"]["measurement"] = {"repetitions": 2}
    builder.metadata |= {"status": "interrupted"}
    del builder.metadata["repetitions"][3]
    xml = document(*analysed(builder, tmp_path))
    assert outcomes(xml, "failure")[".policies/prefill_only"] == (
        "policy not measured in full: prefill_only: found 1, expected 2 complete repetitions; repeat the run"
    )
    assert ".policies/dual_path" not in outcomes(xml, "failure")


def test_an_online_run_tells_its_rates(tmp_path: Path) -> None:
    points = {
        "prefill_only": [(0.2, "steady"), (0.4, "ttft_slo")],
        "dual_path": [(0.2, "steady"), (0.36, "steady"), (0.5, "tpot_slo")],
    }
    builder = StoredRunBuilder(sessions=4, turns=3, points=points)
    builder.metadata["experiment"]["measurement"] = {"repetitions": 9}  # offline only
    xml = document(*analysed(builder, tmp_path))
    name = "dualpath.io_bound_synthetic"
    assert properties(cases(xml)[f"{name}.policies/dual_path"])["max_agents_per_s"] == "0.36"
    assert properties(cases(xml)[f"{name}.comparison/speedup"]) == {
        "speedup": "1.8",
        "ci_low": "0.9",
        "ci_high": "2.5",
    }
    assert not [name for name in outcomes(xml, "failure") if name.startswith(".policies")]


def test_without_a_pair_there_is_no_comparison(tmp_path: Path) -> None:
    builder = StoredRunBuilder(sessions=3, turns=3, order=("dual_path", "dual_path"))
    builder.metadata |= {"baseline": None, "contender": None}
    xml = document(*analysed(builder, tmp_path))
    assert outcomes(xml, "skipped")[".comparison/speedup"].startswith("no comparison")


def read_back(text: str) -> str:
    """What is left of a text in XML: characters that it can hold, and its line ends."""
    held = "".join(c if LEGAL.match(c) else "\ufffd" for c in text)
    return held.replace("\r\n", "\n").replace("\r", "\n")


ANY_TEXT = st.text(st.characters(codec=None) | st.sampled_from("\0\x01\x1b\r\n\t<>&\"']]>\ud800\uffff"))


@given(ANY_TEXT, ANY_TEXT, st.sampled_from(KINDS))
def test_any_text_comes_back_from_the_document(name: str, text: str, kind: Kind) -> None:
    case = Case(name, Outcome(kind, text, text), properties={name: text}, output=text)
    xml = to_xml(name, [Suite(name, [case], properties={text: name})])
    root = ET.fromstring(xml.encode())
    told = root.find("testsuite/testcase")
    assert told is not None
    [outcome] = told.findall(kind)
    assert (told.get("name"), outcome.get("message")) == (read_back(name), read_back(text))
    assert (outcome.text or "", told.findtext("system-out") or "") == (read_back(text), read_back(text))
    assert properties(told) == {read_back(name): read_back(text)}


@given(ANY_TEXT, ANY_TEXT)
def test_an_experiment_that_left_no_records_is_one_error(name: str, message: str) -> None:
    [case] = cases(failed_document(name, message or "?")).values()
    error = case.find("error")
    assert error is not None
    assert error.get("message") == error.text == read_back(message or "?")
