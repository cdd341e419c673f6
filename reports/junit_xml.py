"""JUnit XML as Jenkins, GitLab and GitHub's actions read it: suites of cases that passed or say why not.

There is no standard. What is written is what all of them take: at most one of error, failure and skipped a
case, its text in the element as well as in ``message`` (GitLab shows the one, Jenkins the other), and names
that are unique within a class (GitLab drops the second).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple
from xml.etree import ElementTree as ET

_ILLEGAL = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML 1.0 document may hold, not even escaped (its production 2, Char)."""

Kind = Literal["failure", "error", "skipped"]
_COUNTED: dict[str, Kind] = {"failures": "failure", "errors": "error", "skipped": "skipped"}


class Outcome(NamedTuple):
    """Why a case did not pass: ``message`` in a line, ``text`` as long as it has to be."""

    kind: Kind
    message: str
    text: str = ""


class Case(NamedTuple):
    """One test case; it passed where it has no ``outcome``."""

    name: str
    outcome: Outcome | None = None
    time_s: float = 0.0
    properties: Mapping[str, str] = {}
    output: str = ""


class Suite(NamedTuple):
    """Cases of one class, which is the suite's ``name``. ``timestamp``: ISO 8601, UTC."""

    name: str
    cases: Sequence[Case]
    timestamp: str = ""
    properties: Mapping[str, str] = {}


def to_xml(name: str, suites: Iterable[Suite]) -> str:
    """The document. What XML cannot hold is replaced by U+FFFD; line ends are those of XML, LF."""
    root = ET.Element("testsuites", name=_legal(name))
    cases = [case for suite in suites for case in _add_suite(root, suite)]
    _count(root, cases)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _add_suite(root: ET.Element, suite: Suite) -> Sequence[Case]:
    element = ET.SubElement(root, "testsuite", name=_legal(suite.name))
    _count(element, suite.cases)
    if suite.timestamp:
        element.set("timestamp", _legal(suite.timestamp[:19]))  # without the zone, which some schemas forbid
    _add_properties(element, suite.properties)
    for case in suite.cases:
        _add_case(element, suite.name, case)
    return suite.cases


def _add_case(suite: ET.Element, classname: str, case: Case) -> None:
    attributes = {"classname": _legal(classname), "name": _legal(case.name), "time": f"{case.time_s:.3f}"}
    element = ET.SubElement(suite, "testcase", attributes)
    _add_properties(element, case.properties)
    if case.outcome:
        kind, message, text = case.outcome
        ET.SubElement(element, kind, message=_legal(message)).text = _legal(text or message)
    if case.output:
        ET.SubElement(element, "system-out").text = _legal(case.output)


def _add_properties(element: ET.Element, properties: Mapping[str, str]) -> None:
    if properties:
        listed = ET.SubElement(element, "properties")
        for name, value in properties.items():
            ET.SubElement(listed, "property", name=_legal(name), value=_legal(value))


def _count(element: ET.Element, cases: Sequence[Case]) -> None:
    kinds = Counter(case.outcome.kind for case in cases if case.outcome)
    element.set("tests", str(len(cases)))
    for attribute, kind in _COUNTED.items():
        element.set(attribute, str(kinds[kind]))
    element.set("time", f"{sum(case.time_s for case in cases):.3f}")


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))
