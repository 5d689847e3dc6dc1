"""Blocks of probes from request to results, without Ray: the dummy engine answers in this process."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.analysis.landscape import primary_rows
from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.pipeline.estimate import estimate_sweep
from orchestrator.pipeline.growth import GrowingSweep, check_goals, overrides_of
from orchestrator.pipeline.prepare import PreparedSweep, find_missing, prepare
from orchestrator.pipeline.prompt_sets import load_blocks
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
from tests.unit.pipeline.test_growth import Growing
from workers.actor import Actor
from workers.engines.base import EngineSpec

pytestmark = pytest.mark.thorough

SWEEP = ("engine=dummy", "grid.directions=2", "grid.steps=4", "probes.limit=6")
FILE = ("probes=custom", "probes.path=FILE")


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


class GrowingBlocks(Growing):
    """A sweep whose goals are over new probes too."""

    def __init__(self, out: Path, *overrides: str) -> None:
        self.prepared = prepared(out, *overrides)
        self.sets = list(self.prepared.all_prompt_sets)
        self.study = Study.create(out, self.prepared.info)
        for prompts in self.sets:
            self.study.prompt_sets.write(prompts)
        token = create_disk_token(self.study.out)
        self.actor = Actor(EngineSpec(kind=EngineKind.dummy), str(self.study.root), self.study.id, token)
        self.actor.load()


def test_a_sweep_adds_blocks_and_directions_to_the_same_end_after_any_kill(tmp_path: Path) -> None:
    goals = ("until.over=both", "until.visage=30")
    whole, killed = (GrowingBlocks(tmp_path / name, *goals) for name in ("whole", "killed"))
    check_goals(whole.prepared)
    grown = whole.run(random.Random(1))
    assert grown is not None and grown.whole is not None and grown.growth is not None and grown.growth.is_met
    rng = random.Random(2)
    while (again := killed.run(rng, most=rng.randrange(10, 30))) is None:
        pass
    assert (again.whole, again.growth) == (grown.whole, grown.growth)
    points = [each.study.generations.stored().keys() for each in (whole, killed)]
    assert points[0] == points[1]
    blocks = whole.prepared.blocks_of(grown.whole)
    assert blocks > 1 and grown.whole.grid.lines >= 6
    overrides = overrides_of(whole.prepared, grown.whole, [*SWEEP, f"out={tmp_path / 'whole'}"])
    assert f"probes.blocks={blocks}" in overrides
    requested = prepare(compose(overrides), Presets())
    assert requested.sweep == grown.whole, "as if it had been requested"
    _, summary = reduced(whole.stored(grown.whole))
    (goal,), outcome = grown.growth.progress, grown.outcome()
    assert goal.value == pytest.approx(summary.visage.paper) and goal.over == "both"
    assert outcome is not None and outcome.probes == 6 * blocks and summary.results[0].prompts == 6 * blocks


def test_goals_over_probes_are_on_record_before_the_first_whole_grid(tmp_path: Path) -> None:
    job = GrowingBlocks(tmp_path, "until.over=both", "until.visage=30")
    outcome = GrowingSweep(job.prepared, job.stored(job.prepared.sweep)).outcome()
    assert outcome is not None and [goal.over for goal in outcome.goals] == ["both"]


def test_the_plan_of_a_sweep_with_goals_over_probes_names_its_blocks(tmp_path: Path) -> None:
    goals = ("until.over=both", "until.visage=30")
    plan = estimate_sweep(compose([*SWEEP, f"out={tmp_path}", *goals]), Presets())
    (note,) = (note for note in plan.notes if note.startswith("until: "))
    assert "2 x 5 points with 1 of 16 blocks of probes" in note and "at most 16 blocks of probes" in note


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("until.over=both",), "give until.visage or until.radius"),
        (("until.over=both", "until.visage=9", "grid.adaptive=true"), "needs verdicts at every point"),
        (
            ("until.over=both", "until.visage=9", *FILE, "probes.category=topic", "probes.limit=10"),
            "needs at least 6 probes that are not alike, and probes has 10 in 5 clusters",
        ),
        (
            ("until.over=both", "until.visage=9", *FILE, "probes.limit=3"),
            "probes is read in its file's order: set probes.shuffle=0",
        ),
    ],
)
def test_goals_over_probes_that_cannot_be_are_refused(overrides: Sequence[str], message: str, tmp_path: Path) -> None:
    file = tmp_path / "probes.csv"
    file.write_text("text,topic\n" + "".join(f"request {i},{i % 5}\n" for i in range(10)))
    with pytest.raises(UserError, match=message):
        check_goals(prepared(tmp_path, *(text.replace("FILE", str(file)) for text in overrides)))


def test_blocks_are_the_next_rows_until_the_file_ends(tmp_path: Path) -> None:
    file = tmp_path / "probes.csv"
    file.write_text("text\n" + "".join(f"request {i}\n" for i in range(5)))
    config = compose(["engine=dummy", "probes=custom", f"probes.path={file}", "probes.limit=2", "probes.blocks=9"])
    texts = [[prompt.text for prompt in probes.prompts] for (probes,) in load_blocks(config, Presets(), 9)]
    assert texts == [["request 0", "request 1"], ["request 2", "request 3"], ["request 4"]]
    for options, field in (({"limit": None}, "probes.limit"), ({"offset": 5}, "probes.offset")):
        wrong = dataclasses.replace(config, probes=dataclasses.replace(config.probes, **options))
        with pytest.raises(UserError) as error:
            load_blocks(wrong, Presets(), 9)
        assert error.value.field == field
    file.write_text("text\na\nb\nc\na\n")
    with pytest.raises(UserError, match=r"in two blocks: set probes.skip_duplicates=true"):
        load_blocks(config, Presets(), 9)
