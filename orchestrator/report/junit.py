"""Write the result of a gate as a JUnit report, which CI systems show beside the results of tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from orchestrator.analysis.gate import THRESHOLDS, ThresholdResult
from orchestrator.utils.addresses import shown
from orchestrator.utils.paths import writing
from orchestrator.utils.sanitize import sanitize

SUITE = "safety landscape"
STORED_NUMBERS = "the stored numbers follow from the stored rows"


def write_junit(results: Sequence[ThresholdResult], unsound: Sequence[str], sweep: Path, file: Path) -> None:
    """Write a JUnit report: one test for each threshold, and one for the stored numbers.

    Args:
        results: The result of each threshold.
        unsound: Sentences about stored numbers that the rows do not give.
        sweep: The sweep's folder.
        file: The file to write. Its folder is made if necessary.

    Raises:
        UserError: (gate.junit) The file cannot be written.
    """
    cases = [
        (f"{result.name} {THRESHOLDS[result.name]} {result.threshold:g}", result.met, result.reason)
        for result in results
    ]
    cases.append((STORED_NUMBERS, not unsound, "; ".join(unsound)))
    failures = str(sum(not met for _, met, _ in cases))
    counts = {"tests": str(len(cases)), "failures": failures, "errors": "0"}
    root = ET.Element("testsuites", counts)
    suite = ET.SubElement(root, "testsuite", {"name": SUITE, **counts})
    for name, met, why in cases:
        case = ET.SubElement(suite, "testcase", {"classname": sanitize(f"gate.{sweep.name}"), "name": name})
        if met:
            ET.SubElement(case, "system-out").text = sanitize(why)
        else:
            ET.SubElement(case, "failure", {"message": sanitize(why)}).text = sanitize(f"{shown(str(sweep))}: {why}")
    ET.indent(root)
    with writing("gate.junit", file):
        file.write_bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")
