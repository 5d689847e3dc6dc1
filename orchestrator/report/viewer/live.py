"""What is known of each sweep now: its stored answers, or newer ones where more has been measured since.

While a sweep runs nobody has judged what it leaves on disk. The viewer judges that itself, into a scratch folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from orchestrator import judges
from orchestrator.analysis import reducer as answers
from orchestrator.judges import Judge
from orchestrator.judges._model import ModelJudge
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.report.page import content, evidence
from orchestrator.report.page.evidence import Evidence
from orchestrator.scoring import panel as seats
from orchestrator.store import status as standing
from orchestrator.store.parts import Part, TaskKey
from orchestrator.store.study import GENERATIONS, Study
from orchestrator.sweep.grid import Sweep
from orchestrator.utils.errors import UserError

AT_ONCE = 4000  # responses judged for one look: a sweep that is far along is caught up with in several
MOST_FOUND = 200  # responses that a search returns
_KEY = ["point_id", "prompt_set_id", "prompt_id"]


class Beside(Study):
    """A study to look at. Verdicts that nobody has stored are kept in a folder of one's own."""

    def __init__(self, study: Study, scratch: Path) -> None:
        super().__init__(study.root, study.id)
        self._scratch = Study(scratch / study.root.name, study.id)

    def parts(self, folder: str = "generations") -> list[Part]:
        found = super().parts(folder)
        return found if folder == "generations" else found + self._scratch.parts(folder)

    def write_judgements(self, judge_id: str, table: pa.Table, judged: Mapping[TaskKey, str]) -> None:
        self._scratch.write_judgements(judge_id, table, judged)


@dataclass(frozen=True)
class Look:
    """A sweep as it is now. `whole`: whether every response that is stored has been judged."""

    study: Study
    folder: Path
    sweep: Sweep
    frame: pd.DataFrame
    summary: dict[str, Any]
    found: Evidence
    whole: bool = True

    def shown(self) -> dict[str, Any]:
        """Everything that the page shows, as `content.gather` makes it."""
        return content.gather(self.study, self.sweep, self.folder, self.frame, self.summary, self.found)

    def prompts(self) -> list[list[list[str]]]:
        """[text, category] of each prompt, by prompt set."""
        return [[[p.text, p.category] for p in prompts.prompts] for prompts in self.found.sets]

    def said(self, point: str) -> list[list[Any] | None]:
        """What was said at a point: places among the prompts, texts, letters for each judge; by prompt set."""
        keys = [(point, prompts.id) for prompts in self.found.sets]
        stored = self.study.stored()
        tables = [table for _, table in self.study.rows({k: stored[k] for k in keys if k in stored}, GENERATIONS)]
        frame = self._judged(pa.concat_tables([GENERATIONS.empty_table(), *tables]).to_pandas())
        found: list[list[Any] | None] = []
        for prompts in self.found.sets:
            places = {p.id: i for i, p in enumerate(prompts.prompts)}
            rows = frame[frame["prompt_set_id"] == prompts.id]
            rows = rows.assign(at=rows["prompt_id"].map(places)).sort_values("at")
            texts = [evidence.shown(text, self.found.reveal) for text in rows["response"]]
            letters = ["".join(rows[name]) for name in self.found.judges]
            found.append([rows["at"].tolist(), texts, letters] if len(rows) else None)
        return found

    def search(self, text: str = "", group: str = "", category: str = "", outcome: str = "") -> dict[str, Any]:
        """Responses, by the first judge's outcome, in which, or in whose prompt, a text occurs: the first MOST_FOUND of
        them, and how many there are."""
        asked = pd.DataFrame(
            [
                (i, prompts.id, p.id, p.text, p.category, prompts.group, prompts.system_prompt)
                for i, prompts in enumerate(self.found.sets)
                for p in prompts.prompts
            ],
            columns=["set", *_KEY[1:], "text", "category", "group", "system_prompt"],
        )
        if group:
            asked = asked[asked["group"] == group]
        if category:
            asked = asked[asked["category"] == category]
        total = 0
        rows: list[Any] = []
        wanted = set(asked["prompt_set_id"])
        winners = {k: p for k, p in self.study.stored_of(self.sweep.tasks()).items() if k[1] in wanted}
        sought = text.lower()
        for _, table in self.study.rows(winners, GENERATIONS):
            own = self._judged(table.select([*_KEY, "response"]).to_pandas().merge(asked, on=_KEY[1:]))
            own = own[own[self.found.judges[0]] == outcome] if outcome else own
            if sought:
                both = zip(own["response"], own["text"], strict=True)
                hit = [sought in response.lower() or sought in prompt.lower() for response, prompt in both]
                own = own[hit]
            total += len(own)
            rows += own.head(MOST_FOUND - len(rows)).to_dict("records")
        return {
            "total": total,
            "found": [
                {
                    "point": row["point_id"],
                    "set": row["set"],
                    "prompt": row["text"],
                    "category": row["category"],
                    "asked": f"{row['group']}, system prompt {row['system_prompt']}",
                    "response": evidence.shown(row["response"], self.found.reveal),
                    "outcome": row[self.found.judges[0]],
                }
                for row in rows
            ],
        }

    def _judged(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows with a column of letters for each judge; u where it has said nothing."""
        names = list(self.found.judges)
        rows = rows.merge(self.found.verdicts, on=_KEY, how="left")
        return rows.assign(**{name: rows[name].fillna("u") for name in names})


@dataclass
class _Kept:
    lock: threading.Lock = field(default_factory=threading.Lock)
    stamp: tuple[int, ...] = ()
    look: Look | None = None


class Room:
    """All the studies below a root, as a viewer sees them. Any thread may ask."""

    def __init__(self, root: Path, scratch: Path, reveal: bool = False) -> None:
        self._root, self._scratch, self._reveal = root, scratch, reveal
        self._kept: dict[Path, _Kept] = {}
        self._lock = threading.Lock()

    def sweeps(self) -> list[tuple[Study, Path]]:
        """Every sweep, the one used last first; none where there is none yet."""
        with contextlib.suppress(UserError):
            found = list(standing.sweeps_under(self._root))
            return sorted(found, key=lambda pair: -_stamp(pair[1] / "sweep.json"))
        return []

    def find(self, study: str, sweep: str) -> tuple[Study, Path] | None:
        """The sweep that is called that; names are looked up, never taken for paths."""
        return next((pair for pair in self.sweeps() if (pair[0].root.name, pair[1].name) == (study, sweep)), None)

    def look(self, study: Study, folder: Path) -> Look:
        """A sweep as it is now. Raises UserError where it cannot be read."""
        with self._lock:
            kept = self._kept.setdefault(folder, _Kept())
        with kept.lock:
            files = (study.root / "generations", folder / "sweep.json", folder / "landscape.parquet")
            stamp = tuple(map(_stamp, files))
            if kept.look is None or kept.stamp != stamp or not kept.look.whole:
                kept.look, kept.stamp = self._look(study, folder, stamp[2] > stamp[0]), stamp
            return kept.look

    def _look(self, study: Study, folder: Path, is_fresh: bool) -> Look:
        sweep, record = standing.load(study, folder)
        if is_fresh:
            with contextlib.suppress(UserError):
                frame, summary = study.read_landscape(folder)
                bench = seats.bench(study, sweep)
                return Look(study, folder, sweep, frame, summary, self._evidence(study, sweep, bench))
        beside = Beside(study, self._scratch)
        known = tuple(n for n in sweep.judges if not isinstance(judges.get(n), ModelJudge)) or ("keyword",)
        sweep = dataclasses.replace(sweep, judges=known)  # models answer when the run has ended
        bench = [judges.get(name) for name in known]
        prompt_sets = [beside.read_prompt_set(set_id) for set_id in sweep.prompt_set_ids]
        done = [self._judge(beside, sweep, judge, prompt_sets) for judge in [*bench, DEGENERATE]]
        frame = answers.landscape(beside, sweep, prompt_sets)
        summary = answers.summarise(beside, sweep, prompt_sets, frame, record)
        return Look(beside, folder, sweep, frame, summary, self._evidence(beside, sweep, bench), all(done))

    def _judge(self, study: Study, sweep: Sweep, judge: Judge, prompt_sets: list[Any]) -> bool:
        """Judge some of what has no verdict; whether that was all."""
        winners = study.stored_of(sweep.tasks())
        known = study.judged(judge.id, winners)
        size = {prompts.id: len(prompts.prompts) for prompts in prompt_sets}
        now: dict[TaskKey, Part] = {}
        left = [key for key in winners if key not in known]
        for key in left:
            if sum(size[set_id] for _, set_id in now) >= AT_ONCE:
                break
            now[key] = winners[key]
        answers.judge_missing(study, judge, now, prompt_sets)
        return len(now) == len(left)

    def _evidence(self, study: Study, sweep: Sweep, bench: list[Judge]) -> Evidence:
        """Verdicts without texts: these are read when somebody asks for them."""
        winners = study.stored_of(sweep.tasks())
        sets = tuple(study.read_prompt_set(set_id) for set_id in sweep.prompt_set_ids)
        outcomes = evidence.verdicts(study, bench, sets, winners)
        prompts = {each.id: each.prompts for each in sets}
        said = pd.DataFrame(columns=[*_KEY, "text", *(judge.name for judge in bench)])
        names = tuple(judge.name for judge in bench)
        return Evidence(sets, names, prompts, said, outcomes, len(outcomes), self._reveal)


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
