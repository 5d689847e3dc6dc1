"""All studies below a folder, and the current state of each sweep.

While a sweep runs, its responses have not been judged yet. The viewer then judges them itself and keeps the verdicts in
a scratch folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from orchestrator.analysis.landscape import with_all_counts
from orchestrator.analysis.recomputation import recompute
from orchestrator.analysis.reducer import reduce_landscape, reduce_summary
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.judges import Judge
from orchestrator.report.page.evidence import Evidence, verdict_letters
from orchestrator.report.viewer.open_studies import OpenStudies
from orchestrator.report.viewer.sweep_list import PATIENCE, Listing, SweepList
from orchestrator.report.viewer.sweep_view import SweepView
from orchestrator.scoring.counts import with_pooled_ids
from orchestrator.scoring.panel import degeneracy_judge, load_panel, text_judges
from orchestrator.scoring.text_judges import score_missing
from orchestrator.scoring.verdicts import refusals_by_probe
from orchestrator.store.observations import Judgements
from orchestrator.store.part_index import Signature, signature
from orchestrator.store.parts import Part, TaskKey
from orchestrator.store.schemas import RESPONSE_KEY
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.utils.errors import UserError

BATCH = 4000  # maximum number of responses that are judged for one view


class ScratchStudy(Study):
    """A study opened for reading: verdicts that are not stored in it are written to a scratch folder instead."""

    def __init__(self, study: Study, scratch: Path) -> None:
        super().__init__(study.root, study.id)
        self.indexes, self.task_keys = study.indexes, study.task_keys
        self._scratch = Study(scratch / study.root.name, study.id)

    def judgements(self, judge_id: str) -> Judgements:
        """Return the verdicts of one judge, those in the scratch folder included."""
        return _ScratchJudgements(self, judge_id, self._scratch.judgements(judge_id))


class _ScratchJudgements(Judgements):
    """The verdicts of one judge: read from the study and from a scratch folder, written to the scratch folder."""

    def __init__(self, study: Study, judge_id: str, scratch: Judgements) -> None:
        super().__init__(study, judge_id)
        self._scratch = scratch

    def parts(self) -> list[Part]:
        return super().parts() + self._scratch.parts()

    def write(self, table: pa.Table, judged: Mapping[TaskKey, str]) -> None:
        self._scratch.write(table, judged)


@dataclass
class _CachedView:
    """The latest view of a sweep.

    Attributes:
        reading: Held by the request that reads the sweep.
        seen: What the view depends on.
        summary: Signature of summary.json as the view has read it.
        view: The view. None until the sweep has been read once.
    """

    reading: threading.Lock = field(default_factory=threading.Lock)
    seen: tuple[object, ...] = ()
    summary: Signature | None = None
    view: SweepView | None = None


class StudyCatalog:
    """All studies below a root folder. Safe to use from any thread."""

    def __init__(self, root: Path, scratch: Path, reveal: bool = False) -> None:
        """Create a catalog of the studies below `root`.

        Args:
            root: The root of studies, a study or a sweep.
            scratch: Folder for verdicts that are not stored in the studies.
            reveal: Whether responses are shown in full.
        """
        self.root = root
        self._scratch, self._reveal = scratch, reveal
        self._studies = OpenStudies(root)
        self._list = SweepList(self._studies)
        self._cache: dict[tuple[str, str], _CachedView] = {}  # by the names of the study and the sweep
        self._lock = threading.Lock()

    def sweeps(self) -> list[SweepFolder]:
        """Return every sweep, the most recently used first; empty if there is no study yet."""
        return [folder for folder, _ in self._studies.sweeps()]

    def listing(self, patience: float | None = PATIENCE) -> Listing:
        """Return the list of the sweeps that have been read, see `SweepList.listing`.

        Headline numbers are those of stored summaries. If a sweep was viewed, and so checked, since its summary was
        written, `unsound` of its row says which numbers its rows do not give; it is empty if they give all.
        """
        listing = self._list.listing(patience)
        return Listing([row | self._check_of(row) for row in listing.rows], listing.total)

    def _check_of(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Return `unsound` of a row of the list; empty if the sweep's summary has not been checked."""
        with self._lock:
            cached = self._cache.get((row["study"], row["sweep"]))
        if cached is None or cached.view is None or cached.view.unsound is None:
            return {}
        is_current = signature(cached.view.stored.folder.path / "summary.json") == cached.summary
        return {"unsound": cached.view.unsound} if is_current else {}

    def find(self, study: str, sweep: str) -> SweepFolder | None:
        """Return the sweep with these folder names, or None. Names are compared and never used as paths."""
        return self._studies.find(study, sweep)

    def view(self, folder: SweepFolder) -> SweepView:
        """Return the current state of a sweep; cached until its files change.

        One request at a time reads a sweep. Others meanwhile get the view of the reading before, or wait for the end of
        the first one. If they read the sweep one after the other, a request could wait without end: while the sweep
        runs, it has changed each time.

        Raises:
            UserError: If the sweep cannot be read.
        """
        with self._lock:
            cached = self._cache.setdefault((folder.study.root.name, folder.path.name), _CachedView())
        has_waited = not cached.reading.acquire(blocking=False)
        if has_waited:
            if cached.view is not None:
                return cached.view
            cached.reading.acquire()
        try:
            if cached.view is None or not has_waited:
                self._refresh(cached, folder)
            assert cached.view is not None
            return cached.view
        finally:
            cached.reading.release()

    def _refresh(self, cached: _CachedView, folder: SweepFolder) -> None:
        """Read a sweep if anything has changed that its view depends on, or if responses remain to be judged."""
        generations = folder.study.generations
        names = ("sweep.json", "landscape.parquet", "summary.json")
        record, landscape, summary = (signature(folder.path / name) for name in names)
        seen = (record, landscape, summary, generations.snapshot()[0])
        if cached.view is None or cached.seen != seen or not cached.view.fully_judged:
            changed = signature(generations.path)
            is_reduced = landscape is not None and (changed is None or landscape[1] > changed[1])
            cached.view = self._read(folder, is_reduced)
            cached.seen = seen
            cached.summary = summary

    def _read(self, folder: SweepFolder, is_reduced: bool) -> SweepView:
        """Read a sweep; if `is_reduced`, its stored landscape is newer than its responses and is used."""
        stored = StoredSweep.open(folder)
        if is_reduced:
            with contextlib.suppress(UserError):
                return self._reduced(stored)
        # Model judges answer only after the run has ended.
        names = tuple(judge.name for judge in text_judges(stored))
        sweep = dataclasses.replace(stored.sweep, judges=names or ("keyword",))
        scratch = StoredSweep(SweepFolder(ScratchStudy(folder.study, self._scratch), folder.path), sweep)
        panel = load_panel(scratch)
        judged = [self._judge_batch(scratch, judge) for judge in [*panel, degeneracy_judge(scratch)]]
        refusals = refusals_by_probe(scratch)
        frame = reduce_landscape(scratch, refusals)
        summary = reduce_summary(scratch, frame, refusals)
        return SweepView(scratch, frame, summary, self._evidence(scratch, panel), fully_judged=all(judged))

    def _reduced(self, stored: StoredSweep) -> SweepView:
        """Return the stored results if they follow from the rows; otherwise what the rows give, and why, as a warning.

        Raises:
            UserError: There are no results that can be read, or a model judge has not judged the sweep.
        """
        recomputed = recompute(stored)
        unsound = recomputed.unsound()
        if unsound:
            warnings = [
                f"The stored results are not shown, because they do not follow from the stored rows: {unsound}."
            ]
        else:
            warnings = [f"{stored.folder.path.name}: {remark}." for remark in recomputed.unchecked]
        if unsound or recomputed.grown:
            results = recomputed.landscape, recomputed.summary
        else:
            landscape, summary = recomputed.stored
            results = with_all_counts(landscape), SweepSummary.from_json(summary)
        evidence = self._evidence(stored, load_panel(stored))
        return SweepView(stored, *results, evidence, unsound=unsound, warnings=tuple(warnings))

    def _judge_batch(self, stored: StoredSweep, judge: Judge) -> bool:
        """Judge up to BATCH responses that have no verdict. Returns whether every response has one now."""
        judged = stored.judged(judge.id)
        size = {prompts.id: len(prompts.prompts) for prompts in stored.prompt_sets}
        missing = [key for key in stored.generations if key not in judged]
        batch: dict[TaskKey, Part] = {}
        for key in missing:
            if sum(size[set_id] for _, set_id in batch) >= BATCH:
                break
            batch[key] = stored.generations[key]
        score_missing(stored, judge, batch)
        return len(batch) == len(missing)

    def _evidence(self, stored: StoredSweep, panel: Sequence[Judge]) -> Evidence:
        """Return all verdicts and no responses."""
        verdicts = with_pooled_ids(verdict_letters(stored, panel), stored.pooled)
        names = tuple(judge.name for judge in panel)
        prompts = {prompt_set.id: prompt_set.prompts for prompt_set in stored.pooled.sets}
        no_responses = pd.DataFrame(columns=[*RESPONSE_KEY, "text", *names])
        return Evidence(stored.pooled.sets, names, prompts, no_responses, verdicts, len(verdicts), self._reveal)
