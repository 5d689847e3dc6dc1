"""summary.json as typed values: reading and writing keeps the bytes, and summaries of earlier versions are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.analysis.reducer import read_results
from orchestrator.analysis.results.keys import ResultKey
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.cli.main import main
from orchestrator.report.narrative import paragraph, verdict
from orchestrator.report.page import content
from orchestrator.report.page.tables import uncertainty_table
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.grid import ExtraCheckpoint, Node
from orchestrator.utils.parsing import FormatError
from tests.unit.stored import basin, store_sweep

pytestmark = pytest.mark.thorough


STORED = Path(__file__).parent / "stored_summaries"
PROBES = tuple(f"question {i}" for i in range(6))
TEXTS = ("I cannot do that.", "I won\u2019t help with that.", "Here is a list of the steps.")


def store_plane_with_checkpoints(out: Path) -> Path:
    targets = tuple(TowardsDirection(str(i) * 16, f"epoch-{i}") for i in (1, 2, 3))
    extra_checkpoints = (ExtraCheckpoint(targets[2], 0.7, 0.3),)
    grid: dict[str, Any] = {"kind": "interpolate_2d", "towards": targets[:2], "steps": 2, "range": (-0.5, 1.0)}
    return store_sweep(out, basin(0.4), "plane", PROBES, extra_checkpoints=extra_checkpoints, **grid)


def store_two_judges(out: Path) -> Path:
    def respond(node: Node, i: int) -> str:
        return TEXTS[(i + round(8 * abs(node.alpha))) % 3]

    folder = store_sweep(out, basin(0.25), "lines", PROBES, respond=respond, directions=2, steps=4)
    assert main(["judge", str(folder), "judges=[keyword,keyword_plus]"]) == 0
    (judged,) = (other for other in folder.parent.iterdir() if other != folder)
    return judged


STORE = {"plane_with_checkpoints": store_plane_with_checkpoints, "two_judges": store_two_judges}


@pytest.mark.parametrize("name", STORE)
def test_a_stored_summary_is_read_and_written_byte_for_byte(name: str) -> None:
    text = (STORED / f"{name}.json").read_text(encoding="utf-8")
    summary = SweepSummary.from_json(json.loads(text))
    assert json.dumps(summary.to_json(), indent=2, ensure_ascii=False) + "\n" == text
    assert SweepSummary.from_json(summary.to_json()) == summary


def test_the_asr_of_the_grid_at_a_checkpoint_has_its_interval_if_it_is_stored() -> None:
    document = json.loads((STORED / "plane_with_checkpoints.json").read_text(encoding="utf-8"))
    (result,) = document["checkpoints"][1]["results"]
    low, high = result["surface_low"], result["surface_high"]
    assert low < result["surface"] < high
    there = f"the grid gives {result['surface']:.1f}%"
    assert f"{there} [{low:.1f}, {high:.1f}] there" in paragraph(SweepSummary.from_json(document))
    del result["surface_low"], result["surface_high"]  # as in a summary of an earlier version
    assert f"{there} there" in paragraph(SweepSummary.from_json(document))


@pytest.mark.parametrize("name", STORE)
def test_a_sweep_gives_the_stored_summary(name: str, tmp_path: Path) -> None:
    """Keys, their order, texts and counts are the same; other numbers agree up to the rounding of the platform."""
    folder = STORE[name](tmp_path)
    result = SweepFolder(Study.open(folder.parents[1]), folder).read_landscape()[1]
    assert_same(result, json.loads((STORED / f"{name}.json").read_text(encoding="utf-8")), name)


def assert_same(result: Any, expected: Any, path: str) -> None:
    if isinstance(expected, dict):
        assert list(result) == list(expected), path
        for key in expected:
            assert_same(result[key], expected[key], f"{path}.{key}")
    elif isinstance(expected, list):
        assert len(result) == len(expected), path
        for i, pair in enumerate(zip(result, expected, strict=True)):
            assert_same(*pair, f"{path}[{i}]")
    else:
        assert type(result) is type(expected), path
        assert result == (pytest.approx(expected, rel=1e-9) if isinstance(expected, float) else expected), path


def test_the_parts_of_a_summary_are_typed() -> None:
    summaries = {name: SweepSummary.from_json(json.loads((STORED / f"{name}.json").read_text())) for name in STORE}
    plane, lines = summaries["plane_with_checkpoints"], summaries["two_judges"]
    assert plane.primary == ResultKey(probe_set="ours", group="harmful", system_prompt="default", judge="keyword")
    assert plane.results[0].key == plane.primary and hash(plane.primary)
    assert [checkpoint.mark for checkpoint in plane.checkpoints if checkpoint.projected] == ["epoch-3"]
    assert plane.checkpoints[0].results[0].combination == plane.primary.combination
    assert lines.agreement[0].judges == ("keyword", "keyword_plus") and lines.agreement[0].differ_on
    assert lines.visage.over is not None and lines.visage.over.probes.df == 5
    assert lines.basin.by_direction[1].seed_x == 124


def test_the_record_of_a_model_judge_is_part_of_the_judge() -> None:
    judge = json.loads((STORED / "two_judges.json").read_text())["judges"][0]
    record = {"source": "hub", "revision": None, "fingerprint": "f", "dtype": "float32", "answers": "a-1"}
    stored = {"judge": "j", "judge_id": "i", "version": 1, **record, "unparsed_examples": ["?"], "unparsed": 1}
    stored["sets"] = judge["sets"]
    summary = json.loads((STORED / "two_judges.json").read_text()) | {"judges": [stored, judge]}
    result = SweepSummary.from_json(summary)
    assert result.judges[0].record["revision"] is None and result.judges[0].unparsed_examples == ["?"]
    assert json.dumps(result.to_json()) == json.dumps(summary)
    assert result.judges[1].record == {} and result.judges[1].unparsed_examples == []


def test_a_summary_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Keys that were added later may be missing, and unknown keys are ignored."""
    folder = store_two_judges(tmp_path)
    _, summary = read_results(SweepFolder(Study.open(folder.parents[1]), folder))
    value = summary.to_json() | {"forgotten": 1}
    added_keys = (
        "margin",
        "published",
        "plane_share",
        "checkpoints",
        "judges",
        "agreement",
        "rendering",
        "tasks_failed",
        "engines",
        "versions",
        "intervals_version",
    )
    for key in added_keys:
        del value[key]
    for part in [value, *value["results"]]:
        part.pop("margin", None)
        del part["visage"]["over"], part["visage"]["enough"], part["basin"]["area"]
        for key in ("points", "counted", "released_reason"):
            del part["visage"][key]
    for part in value["results"]:
        del part["clusters"], part["curves"]
    old = SweepSummary.from_json(value)
    assert (old.intervals_version, summary.intervals_version) == (1, 2)
    assert old.primary_result.clusters is None and old.primary_result.curves == ()
    assert old.visage.paper == summary.visage.paper and old.visage.over is None and old.basin.area.value is None
    assert (old.checkpoints, old.judges, old.tasks_failed, old.rendering) == ((), (), 0, ())
    assert paragraph(old).startswith(verdict(summary))
    values = [{tile["name"]: tile["value"] for tile in content.tiles(shown)} for shown in (old, summary)]
    assert values[0] == values[1] | {"Mean margin": "not measured"}
    assert uncertainty_table(old).rows and content.more_precision(old) == ""
    del value["basin"]
    with pytest.raises(FormatError, match="lacks basin"):
        SweepSummary.from_json(value)
