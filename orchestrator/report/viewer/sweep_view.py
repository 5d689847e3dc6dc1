"""One sweep as the viewer shows it: the page's content, the responses at a point, and a search over all responses.

Of responses with a thought, the answer is shown and searched.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.report.page.content import page_content
from orchestrator.report.page.evidence import NO_VERDICT, Evidence, display_text
from orchestrator.report.viewer import refining
from orchestrator.scoring.counts import with_pooled_ids
from orchestrator.store.schemas import GENERATIONS, RESPONSE_KEY
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.thoughts import Answers

MAX_HITS = 200  # responses that a search returns
_ANSWER = ["prompt_set_id", "prompt_id", "response"]


@dataclass(frozen=True)
class SweepView:
    """A sweep at one moment.

    Attributes:
        stored: The sweep, with those of its judges whose verdicts are shown.
        frame: The landscape.
        summary: The summary.
        evidence: All verdicts, without responses: these are read when they are requested.
        fully_judged: Whether every stored response has been judged.
        unsound: A sentence on stored results that the stored rows do not give. The landscape and the summary here are
            then those of the rows. Empty if the rows give all; None if no stored results were read.
        warnings: Sentences that the page shows besides those that the summary leads to.
    """

    stored: StoredSweep
    frame: pd.DataFrame
    summary: SweepSummary
    evidence: Evidence
    fully_judged: bool = True
    unsound: str | None = None
    warnings: tuple[str, ...] = ()

    @functools.cached_property
    def answers(self) -> Answers:
        """The answers in the responses."""
        return Answers(self.evidence.prompt_sets, self.stored.sweep.thought)

    def content(self) -> dict[str, Any]:
        """Return everything that the page's template needs."""
        surface = refining.surface(self.stored, self.frame, self.summary.adaptive)
        content = page_content(self.stored, self.frame, self.summary, self.evidence, surface)
        return content | {"warnings": [*self.warnings, *content["warnings"]]}

    def prompts(self) -> list[list[list[str]]]:
        """Return [text, category] of each prompt, by prompt set."""
        return [[[p.text, p.category] for p in prompts.prompts] for prompts in self.evidence.prompt_sets]

    def responses_at(self, point_id: str, reveal: bool = False) -> list[list[Any] | None]:
        """Return the responses at a point by prompt set.

        Each entry is [indices of the prompts, texts, a string of verdict letters for each judge], or None if nothing
        is stored. Texts are whole if `reveal` is True or the viewer reveals all.
        """
        keys = [(point_id, set_id) for set_id in self.stored.sweep.prompt_set_ids]
        parts = {key: self.stored.generations[key] for key in keys if key in self.stored.generations}
        tables = [table for _, table in self.stored.study.generations.rows(parts)]
        frame = self._with_verdicts(self._pooled(pa.concat_tables([GENERATIONS.empty_table(), *tables]).to_pandas()))
        by_set: list[list[Any] | None] = []
        for prompts in self.evidence.prompt_sets:
            rows = frame[frame["prompt_set_id"] == prompts.id]
            if rows.empty:
                by_set.append(None)
                continue
            indices = {p.id: i for i, p in enumerate(prompts.prompts)}
            rows = rows.assign(index=rows["prompt_id"].map(indices)).sort_values("index")
            pairs = zip(rows["prompt_id"], rows["response"], strict=True)
            is_whole = reveal or self.evidence.reveal
            texts = [display_text(self.answers.shown(prompts.id, *pair), is_whole) for pair in pairs]
            by_set.append([rows["index"].tolist(), texts, ["".join(rows[name]) for name in self.evidence.judges]])
        return by_set

    def search(
        self, text: str = "", group: str = "", category: str = "", outcome: str = "", *, reveal: bool = False
    ) -> dict[str, Any]:
        """Find responses. Empty arguments match everything.

        Args:
            text: Text that occurs in the response or in its prompt, in any case.
            group: Group of the prompt set.
            category: Category of the prompt.
            outcome: The first judge's verdict, as a letter.
            reveal: Whether whole responses are returned, even if the viewer does not reveal all.

        Returns:
            The number of hits (`total`) and the first MAX_HITS of them (`found`).
        """
        prompts = self._prompt_table(group, category)
        set_ids = set(prompts["prompt_set_id"])
        parts = {
            key: part for key, part in self.stored.generations.items() if self.stored.pooled.ids[key[1]] in set_ids
        }
        total = 0
        hits: list[Any] = []
        for _, table in self.stored.study.generations.rows(parts):
            rows = self._pooled(table.select([*RESPONSE_KEY, "response"]).to_pandas())
            rows = rows.merge(prompts, on=RESPONSE_KEY[1:])
            rows["response"] = [self.answers.shown(*row) for row in rows[_ANSWER].itertuples(index=False)]
            rows = self._with_verdicts(rows)
            if outcome:
                rows = rows[rows[self.evidence.judges[0]] == outcome]
            if text:
                pairs = zip(rows["response"], rows["text"], strict=True)
                rows = rows[[any(text.lower() in part.lower() for part in pair) for pair in pairs]]
            total += len(rows)
            hits += rows.head(MAX_HITS - len(hits)).to_dict("records")
        return {"total": total, "found": [self._hit(row, reveal) for row in hits]}

    def _prompt_table(self, group: str, category: str) -> pd.DataFrame:
        """Return the prompts of a group and a category, one row each; an empty string selects all."""
        rows = [
            (i, index, prompts.id, p.id, p.text, p.category, prompts.group, prompts.system_prompt)
            for i, prompts in enumerate(self.evidence.prompt_sets)
            for index, p in enumerate(prompts.prompts)
            if group in ("", prompts.group) and category in ("", p.category)
        ]
        columns = ["set", "index", *RESPONSE_KEY[1:], "text", "category", "group", "system_prompt"]
        return pd.DataFrame(rows, columns=columns)

    def _hit(self, row: dict[str, Any], reveal: bool) -> dict[str, Any]:
        return {
            "point": row["point_id"],
            "set": row["set"],
            "index": row["index"],
            "prompt": row["text"],
            "category": row["category"],
            "asked": f"{row['group']}, system prompt {row['system_prompt']}",
            "response": display_text(row["response"], reveal or self.evidence.reveal),
            "outcome": row[self.evidence.judges[0]],
        }

    def _pooled(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return rows of responses with the ids of `evidence.prompt_sets`."""
        return with_pooled_ids(rows, self.stored.pooled)

    def _with_verdicts(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Add a column of verdict letters for each judge to rows of responses."""
        names = list(self.evidence.judges)
        rows = rows.merge(self.evidence.verdicts, on=RESPONSE_KEY, how="left")
        return rows.assign(**{name: rows[name].fillna(NO_VERDICT) for name in names})
