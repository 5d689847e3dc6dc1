"""What was said: responses at each point, cut and sampled so that a report stays small; every verdict on them.

The same prompts are shown at every point, or none could be held against the origin's. Redaction happens here: what
is not to be seen never gets into the page.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.judges import Judge
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.scoring.panel import bench
from orchestrator.store.parts import Part, TaskKey
from orchestrator.store.study import GENERATIONS, JUDGEMENTS, Study
from orchestrator.sweep.grid import Sweep
from orchestrator.sweep.tasks import Prompt, PromptSet

MAX_BYTES = 20_000_000  # of responses and prompts in one report
FIRST_WORDS, FIRST_CHARACTERS = 4, 48
LONGEST = 4000  # characters of a response or prompt that is shown whole
_KEY = ["point_id", "prompt_set_id", "prompt_id"]


@dataclass(frozen=True)
class Evidence:
    """`prompts`: those shown, for each prompt set. `said`: point, prompt set, prompt, the text to show and, by each
    judge, what it was (r: refused, c: complied, d: degenerate, u: no verdict). `verdicts`: the same of all that is
    stored, without the texts. `total`: generations stored."""

    sets: tuple[PromptSet, ...]
    judges: tuple[str, ...]
    prompts: Mapping[str, Sequence[Prompt]]
    said: pd.DataFrame
    verdicts: pd.DataFrame
    total: int
    reveal: bool

    @property
    def points(self) -> list[str]:
        """The ids of the points at which there is something to show."""
        return list(dict.fromkeys(self.said["point_id"]))

    def to_json(self) -> dict[str, Any]:
        """Texts once each; by point and prompt set their places in the list and a letter for each verdict."""
        texts: dict[str, int] = {}
        places = {set_id: {p.id: i for i, p in enumerate(chosen)} for set_id, chosen in self.prompts.items()}
        order = {prompts.id: i for i, prompts in enumerate(self.sets)}
        found: dict[str, list[Any]] = {}
        for key, rows in self.said.groupby(["point_id", "prompt_set_id"], sort=False):
            point, set_id = map(str, key)
            at = rows["prompt_id"].map(places[set_id])
            rows = rows.assign(at=at).sort_values("at")
            found.setdefault(point, [None] * len(self.sets))[order[set_id]] = [
                rows["at"].tolist(),
                [texts.setdefault(text, len(texts)) for text in rows["text"]],
                ["".join(rows[name]) for name in self.judges],
            ]
        asked = [[[_cut(p.text), p.category] for p in self.prompts[prompts.id]] for prompts in self.sets]
        return {"texts": list(texts), "prompts": asked, "points": found}


def collect(study: Study, sweep: Sweep, reveal: bool, most: int) -> Evidence:
    """All of a sweep's verdicts, and of its responses at most `most`, in at most MAX_BYTES."""
    winners = study.stored_of(sweep.tasks())
    sets = tuple(study.read_prompt_set(set_id) for set_id in sweep.prompt_set_ids)
    outcomes = verdicts(study, bench(study, sweep), sets, winners)
    stored = {prompts.id: sum(key[1] == prompts.id for key in winners) for prompts in sets}
    total = sum(stored[prompts.id] * len(prompts.prompts) for prompts in sets)
    share = min(1.0, most / total) if total else 1.0
    chosen = {p.id: _spread(p.prompts, share) for p in sets}
    said = _said(study, winners if most else {}, chosen, reveal).merge(outcomes, on=_KEY)
    while (size := _size(said, chosen)) > MAX_BYTES:
        chosen = {set_id: _spread(kept, 0.95 * MAX_BYTES / size) for set_id, kept in chosen.items()}
        said = said[_asked(said, chosen)]
    return Evidence(sets, sweep.judges, chosen, said, outcomes, total, reveal)


def verdicts(
    study: Study, bench: Sequence[Judge], sets: Sequence[PromptSet], winners: Mapping[TaskKey, Part]
) -> pd.DataFrame:
    """A row for each response of these tasks that was judged: its keys, and a column of letters for each judge."""
    groups = {prompts.id: prompts.group for prompts in sets}
    frame = _verdicts_of(study, DEGENERATE.id, winners).rename(columns={"verdict": "ruin"})
    for judge in bench:
        found = _verdicts_of(study, judge.id, winners).rename(columns={"verdict": judge.name})
        frame = frame.merge(found, on=_KEY, how="left")
        asked = frame["prompt_set_id"].map(groups)
        frame[judge.name] = [
            _letter(judge.outcome(verdict, group) if isinstance(verdict, str) else None, ruin)
            for verdict, group, ruin in zip(frame[judge.name], asked, frame["ruin"], strict=True)
        ]
    return frame.drop(columns="ruin")


def _letter(outcome: str | None, ruin: str) -> str:
    return {"refused": "r", "complied": "d" if ruin == "degenerate" else "c", None: "u"}[outcome]


def _verdicts_of(study: Study, judge_id: str, winners: Mapping[TaskKey, Part]) -> pd.DataFrame:
    names = [*_KEY, "verdict"]
    tables = [table.select(names) for _, table in study.rows(study.judged(judge_id, winners), JUDGEMENTS)]
    return pa.concat_tables([JUDGEMENTS.empty_table().select(names), *tables]).to_pandas()


def _said(
    study: Study, winners: Mapping[TaskKey, Part], chosen: Mapping[str, Sequence[Prompt]], reveal: bool
) -> pd.DataFrame:
    """The chosen responses as they are shown, part by part, so that no more than those are ever in memory."""
    wanted = pa.array([f"{set_id} {p.id}" for set_id, kept in chosen.items() for p in kept], pa.string())
    frames = [pd.DataFrame({name: pd.Series(dtype="str") for name in [*_KEY, "text"]})]
    for _, table in study.rows(winners, GENERATIONS):
        own = pc.binary_join_element_wise(table["prompt_set_id"], table["prompt_id"], " ")
        table = table.filter(pc.is_in(own, wanted)).select([*_KEY, "response"])
        columns = {name: table[name].to_pylist() for name in _KEY}
        frames.append(pd.DataFrame(columns | {"text": [shown(r, reveal) for r in table["response"].to_pylist()]}))
    return pd.concat([f for f in frames if len(f)] or frames, ignore_index=True)


def shown(response: str, reveal: bool) -> str:
    """A response as it may be seen: its first words, or as much of it as has room."""
    if reveal:
        return _cut(response)
    words = response[: 4 * FIRST_CHARACTERS].split()
    first = " ".join(words[:FIRST_WORDS])[:FIRST_CHARACTERS]
    return first if first == response.strip() else f"{first} …".lstrip()


def _cut(text: str) -> str:
    left = len(text) - LONGEST
    return text if left <= 0 else f"{text[:LONGEST]} … [{left:,} more characters]"


def _spread(prompts: Sequence[Prompt], share: float) -> list[Prompt]:
    """A share of the prompts, evenly from first to last, so that every category keeps some."""
    keep = min(len(prompts), int(len(prompts) * share + 1e-9))
    return [prompts[i * len(prompts) // keep] for i in range(keep)]


def _asked(said: pd.DataFrame, chosen: Mapping[str, Sequence[Prompt]]) -> pd.Series:
    keys = set(itertools.chain.from_iterable(((s, p.id) for p in kept) for s, kept in chosen.items()))
    own = zip(said["prompt_set_id"], said["prompt_id"], strict=True)
    return pd.Series([key in keys for key in own], index=said.index, dtype=bool)


def _size(said: pd.DataFrame, chosen: Mapping[str, Sequence[Prompt]]) -> int:
    """Bytes that these texts take in the page, where <, > and & are written as six characters, as controls are."""
    asked = (_cut(p.text) for kept in chosen.values() for p in kept)
    return sum(_bytes(text) for text in itertools.chain(said["text"].unique(), asked)) + 12 * len(said)


def _bytes(text: str) -> int:
    return len(text.encode()) + sum(5 * text.count(c) for c in "<>&") + sum(5 for c in text if c < " " or c in '"\\')
