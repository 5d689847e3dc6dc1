"""Studies with the dummy engine's responses, written directly to disk, and the pages opened on them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa

from orchestrator.config.schema import ReportConfig
from orchestrator.pipeline import reduce
from orchestrator.scoring.text_judges import score_with_text_judges
from orchestrator.store.records import RunRecord, RunTotals, SweepRecord
from orchestrator.store.schemas import GENERATIONS
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.grid import Grid, Sweep
from orchestrator.sweep.points import Point
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from workers.engines import dummy

ENGINE = {"engine": "dummy", "version": 1}
CATEGORIES = ("fraud", "malware", "privacy")

Respond = Callable[[Point, Prompt, PromptSet], str]


def dummy_response(point: Point, prompt: Prompt, prompts: PromptSet) -> str:
    """Return the dummy engine's response; the system prompt `safety` widens the basin."""
    if prompts.system_prompt == "safety":
        point = Point(tuple((direction, c / 2) for direction, c in point.coefficients))
    return dummy.dummy_response(point, prompt.id, prompts.sampling, 8).response


def prompt_set(
    probe_set: str, group: str, system_prompt: str, count: int, texts: Mapping[int, str] | None = None
) -> PromptSet:
    texts = texts or {}
    prompts = tuple(
        Prompt(texts.get(i, f"Question {i} of {probe_set}: how is it done?"), group, CATEGORIES[i % len(CATEGORIES)])
        for i in range(count)
    )
    ids = tuple((len(probe_set), len(system_prompt), i) for i in range(count))
    return PromptSet(group, prompts, tuple(p.text for p in prompts), ids, Sampling(64), probe_set, system_prompt)


@dataclass
class DummyStudy:
    """A study with one sweep."""

    study: Study
    folder: Path
    sweep: Sweep

    def stored(self) -> StoredSweep:
        """Return the stored sweep in its present state."""
        return StoredSweep(SweepFolder(self.study, self.folder), self.sweep)

    def write_report(self, **options: Any) -> Path:
        """Write the sweep's report.html and return its path."""
        stored = self.stored()
        score_with_text_judges(stored)
        with mock.patch.object(reduce, "draw_figures"):  # drawing figures is slow, and other tests cover it
            reduce.reduce_stored(stored, ReportConfig(**options))
        return self.folder / "report.html"


def make_study(
    out: Path,
    grid: Grid,
    sets: tuple[PromptSet, ...],
    respond: Respond = dummy_response,
    without: Callable[[Point], bool] = lambda point: False,
    judges: tuple[str, ...] = ("keyword",),
    model: str = "dummy",
) -> DummyStudy:
    """Create a study that holds every task of a sweep, except at the points for which `without` returns True."""
    study = Study.create(out, StudyInfo(model, "dummy", "float32", 1, "dummy"))
    for prompts in sets:
        study.prompt_sets.write(prompts)
    sweep = Sweep(grid, tuple(prompts.id for prompts in sets), judges, "sweep")
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    rows: list[dict[str, Any]] = []
    for point in grid.points():
        if without(point):
            continue
        rows += [
            {
                "study_id": study.id,
                "point_id": point.id,
                "point": json.dumps(point.to_json()),
                "prompt_set_id": prompts.id,
                "prompt_id": prompt.id,
                "group": prompts.group,
                "response": respond(point, prompt, prompts),
                "finish_reason": "stop",
                "n_tokens": 8,
                "n_prompt_tokens": 8,
                "scores": dummy.dummy_response(point, prompt.id, prompts.sampling, 8).scores,
                "engine_id": "e",
                "actor": "a",
                "started_at": now,
                "seconds": 0.1,
            }
            for prompts in sets
            for prompt in prompts.prompts
        ]
    study.generations.write("all", pa.Table.from_pylist(rows, schema=GENERATIONS), ENGINE)
    folder = SweepFolder.of(study, sweep)
    run = RunRecord(
        run="r",
        started_at=now.timestamp(),
        outcome="complete",
        seconds=75.2,
        totals=RunTotals(tokens=12_345, actors=2),
        engines={"e": ENGINE},
        machines={host: {"cpu": "Some CPU", "cores": 8, "memory_gib": 64, "gpus": ["H100", "H100"]} for host in "ab"},
        versions={"python": "3.11.9", "platform": "Linux-6.1-x86_64", "vllm": "0.32.0"},
    )
    record = SweepRecord(
        sweep_id=sweep.id,
        name=sweep.name,
        request=sweep.to_json(),
        overrides=("engine=dummy", "probe_sets=[harmful,benign]", 'system_prompt.text="be kind"'),
        labels={
            end.fingerprint: end.label
            for end in (*grid.towards, *(extra.direction for extra in grid.extra_checkpoints))
            if end.fingerprint is not None
        },
        runs=(run,),
    )
    folder.write_record(record)
    return DummyStudy(study, folder.path, sweep)


@dataclass
class OpenedPage:
    """A page in the browser, with its console messages, its requests, and the requests that its policy blocked."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        """The address with its fragment. `page.url` lags behind a fragment that a script has just set."""
        return str(self.page.evaluate("location.href"))

    def assert_clean(self, path: Path | str) -> None:
        """Check that the console is empty and that nothing was requested but the file, or the server, at `path`."""
        assert self.errors == []
        if isinstance(path, Path):
            assert self.requests == [path.as_uri()]
        else:
            assert [url for url in self.requests if not url.startswith((path, "data:,"))] == []

    def points(self, kind: str = "") -> Any:
        """Return the chart's points. `kind`: a CSS selector that narrows them down."""
        return self.page.locator(f"#chart .point{kind}")
