"""Blocks of probes from request to results, without Ray: the dummy engine answers in this process."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.analysis.landscape import primary_rows
from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.pipeline.prepare import PreparedSweep, find_missing, prepare
from orchestrator.pipeline.prompt_sets import load_probe_sets
from orchestrator.report.page.evidence import collect_evidence
from orchestrator.scoring.deciding import DecidingCounts
from orchestrator.store.records import SweepRecord
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.store.temporary import create_disk_token
from orchestrator.sweep.tasks import visits
from orchestrator.utils.choices import EngineKind
from orchestrator.utils.errors import UserError
from tests.unit.pipeline.test_adaptive import reduced
from workers.actor import Actor
from workers.engines.base import EngineSpec

pytestmark = pytest.mark.thorough

SWEEP = ("engine=dummy", "grid.directions=2", "grid.steps=4", "probes.limit=6")


def prepared(out: Path, *overrides: str) -> PreparedSweep:
    return prepare(compose([*SWEEP, f"out={out}", *overrides]), Presets())


def measure(sweep: PreparedSweep, most: int = 10**9) -> StoredSweep:
    """Measure the missing visits of a sweep, `most` at most, and return it as it is stored."""
    study = Study.create(sweep.out, sweep.info)
    for prompts in sweep.prompt_sets:
        study.prompt_sets.write(prompts)
    stored = StoredSweep(SweepFolder.of(study, sweep.sweep), sweep.sweep)
    stored.folder.write_record(
        SweepRecord(sweep_id=sweep.sweep.id, name=sweep.sweep.name, request=sweep.sweep.to_json())
    )
    token = create_disk_token(study.out)
    actor = Actor(EngineSpec(kind=EngineKind.dummy), str(study.root), study.id, token)
    actor.load()
    scalars = {direction.id: actor.measure(direction) for direction in sweep.sweep.grid.directions_used}
    actor.set_inputs({prompts.id: prompts for prompts in sweep.prompt_sets}, scalars)
    for visit in visits(find_missing(sweep, stored).tasks)[:most]:
        actor.visit(visit)
    stored.refresh()
    return stored


def decided(stored: StoredSweep) -> dict[str, tuple[int, int]]:
    counts = DecidingCounts(stored)
    counts.read_stored()
    return counts.counts


def asr(frame: pd.DataFrame) -> list[tuple[float, int]]:
    rows = primary_rows(frame)
    return list(zip(rows["asr"], rows["n"], strict=True))


def test_two_blocks_give_the_numbers_of_one_set_with_the_same_probes_and_reuse_the_first_block(tmp_path: Path) -> None:
    first = prepared(tmp_path / "blocks")
    measure(first)
    blocks = prepared(tmp_path / "blocks", "probes.blocks=2")
    assert blocks.sweep.prompt_set_ids[0] == first.sweep.prompt_set_ids[0] and len(blocks.sweep.prompt_set_ids) == 2
    assert len(find_missing(blocks, blocks.stored).tasks) == len(first.sweep.tasks()), "only the second block"
    partly = measure(blocks, most=3)
    frame, summary = reduced(partly)
    assert sorted({n for _, n in asr(frame)}) == [0, 12], "a point without its second block has no number"
    assert summary.points_done == 3 == len(decided(partly))

    whole = prepared(tmp_path / "whole", "probes.limit=12")
    stored, single = measure(blocks), measure(whole)
    (frame, summary), (expected, as_one) = reduced(stored), reduced(single)
    assert asr(frame) == asr(expected)
    assert summary.results[0].visage == as_one.results[0].visage and summary.results[0].basin == as_one.results[0].basin
    assert summary.judges[0].sets == as_one.judges[0].sets
    assert decided(stored) == decided(single)
    pages = [collect_evidence(each, True, 1000).to_json() for each in (stored, single)]
    assert pages[0]["prompts"] == pages[1]["prompts"] and len(pages[0]["prompts"]) == 1
    assert {point: sets[0][0] for point, sets in pages[0]["points"].items()} == {
        point: sets[0][0] for point, sets in pages[1]["points"].items()
    }


def test_blocks_are_the_next_rows_until_the_file_ends(tmp_path: Path) -> None:
    file = tmp_path / "probes.csv"
    file.write_text("text\n" + "".join(f"request {i}\n" for i in range(5)))
    config = compose(["engine=dummy", "probes=custom", f"probes.path={file}", "probes.limit=2", "probes.blocks=9"])
    texts = [[prompt.text for prompt in block.prompts] for block in load_probe_sets(config, Presets())]
    assert texts == [["request 0", "request 1"], ["request 2", "request 3"], ["request 4"]]
    for options, field in (({"limit": None}, "probes.limit"), ({"offset": 5}, "probes.offset")):
        wrong = dataclasses.replace(config, probes=dataclasses.replace(config.probes, **options))
        with pytest.raises(UserError) as error:
            load_probe_sets(wrong, Presets())
        assert error.value.field == field
    file.write_text("text\na\nb\nc\na\n")
    with pytest.raises(UserError, match=r"in two blocks: set probes.skip_duplicates=true"):
        load_probe_sets(config, Presets())
