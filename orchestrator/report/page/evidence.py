"""The responses that a page can show, with every judge's verdicts: truncated and sampled so that a report stays small.

The same prompts are shown at every point, so that each response can be compared with the one at the origin. Responses
are redacted here: text that must not be shown never reaches the page. Thoughts are left out.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.judges import Judge
from orchestrator.scoring.counts import with_pooled_ids
from orchestrator.scoring.panel import load_panel
from orchestrator.scoring.verdicts import degeneracy_id, outcome_of, read_verdicts
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.tasks import Prompt, PromptSet
from orchestrator.sweep.thoughts import Answers

MAX_BYTES = 20_000_000  # maximum for the responses and prompts in one report
FIRST_WORDS, FIRST_CHARACTERS = 4, 48  # maximum that is shown of a redacted response
MAX_CHARACTERS = 4000  # maximum that is shown of a response or prompt in full
RESPONSE_KEY = ["point_id", "prompt_set_id", "prompt_id"]
NO_VERDICT, NOT_FINITE = "u", "n"
_BY_COHERENCE = {"coherent": "c", "degenerate": "d", "unclear": "x"}


@dataclass(frozen=True)
class Evidence:
    """Responses and verdicts of a sweep.

    Verdicts are letters: `r` refused; of those not refused, `c` complied (coherent), `d` degenerate and `x` unclear;
    `n` not finite, so that no judge judges it; `u` no verdict.

    Attributes:
        prompt_sets: The sweep's prompt sets, with the blocks of each probe set joined. Their ids are those below.
        judges: The judges' names.
        shown_prompts: The prompts whose responses are shown, by prompt set id.
        responses: One row per shown response: the columns of RESPONSE_KEY, `text` as it is displayed, and a verdict
            column named after each judge.
        verdicts: The same columns without `text` for all stored responses.
        total: Number of stored responses.
        reveal: Whether responses are shown in full.
    """

    prompt_sets: tuple[PromptSet, ...]
    judges: tuple[str, ...]
    shown_prompts: Mapping[str, Sequence[Prompt]]
    responses: pd.DataFrame
    verdicts: pd.DataFrame
    total: int
    reveal: bool

    def to_json(self) -> dict[str, Any]:
        """Return the data that the page reads, with every distinct text stored once.

        `points` holds for each point, by prompt set, None or [indices of prompts, indices into `texts`, a string of
        verdict letters for each judge].
        """
        texts: dict[str, int] = {}
        indices = {set_id: {p.id: i for i, p in enumerate(chosen)} for set_id, chosen in self.shown_prompts.items()}
        order = {prompts.id: i for i, prompts in enumerate(self.prompt_sets)}
        points: dict[str, list[Any]] = {}
        for key, responses in self.responses.groupby(["point_id", "prompt_set_id"], sort=False):
            point, set_id = map(str, key)
            rows = responses.assign(index=responses["prompt_id"].map(indices[set_id])).sort_values("index")
            points.setdefault(point, [None] * len(self.prompt_sets))[order[set_id]] = [
                rows["index"].tolist(),
                [texts.setdefault(text, len(texts)) for text in rows["text"]],
                ["".join(rows[name]) for name in self.judges],
            ]
        prompts = [
            [[_truncate(p.text), p.category] for p in self.shown_prompts[prompt_set.id]]
            for prompt_set in self.prompt_sets
        ]
        return {"texts": list(texts), "prompts": prompts, "points": points}


def collect_evidence(stored: StoredSweep, reveal: bool, max_responses: int) -> Evidence:
    """Return all verdicts of a sweep and at most `max_responses` of its responses, in at most MAX_BYTES."""
    prompt_sets = stored.pooled.sets
    verdicts = with_pooled_ids(verdict_letters(stored, load_panel(stored)), stored.pooled)
    tasks = Counter(set_id for _, set_id in stored.generations)
    total = sum(tasks[block.id] * len(block.prompts) for block in stored.prompt_sets)
    share = min(1.0, max_responses / total) if total else 1.0
    shown = {prompts.id: _sample_evenly(prompts.prompts, share) for prompts in prompt_sets}
    responses = _read_responses(stored, shown, reveal) if max_responses else _no_responses()
    responses = responses.merge(verdicts, on=RESPONSE_KEY)
    while (size := _page_bytes(responses, shown)) > MAX_BYTES:
        shown = {set_id: _sample_evenly(kept, 0.95 * MAX_BYTES / size) for set_id, kept in shown.items()}
        responses = responses[_is_to(responses, shown)]
    return Evidence(prompt_sets, stored.sweep.judges, shown, responses, verdicts, total, reveal)


def verdict_letters(stored: StoredSweep, panel: Sequence[Judge]) -> pd.DataFrame:
    """Return one row per judged response of a sweep: RESPONSE_KEY, and for each judge the verdict as one letter.

    `Evidence` explains the letters.
    """
    groups = {prompts.id: prompts.group for prompts in stored.prompt_sets}
    study = stored.study
    degenerate_id = degeneracy_id(stored)
    frame = read_verdicts(study.judgements(degenerate_id), stored.judged(degenerate_id), "coherence")
    for judge in panel:
        verdicts = read_verdicts(study.judgements(judge.id), stored.judged(judge.id), judge.name)
        frame = frame.merge(verdicts, on=RESPONSE_KEY, how="left")
        group = frame["prompt_set_id"].map(groups)
        frame[judge.name] = [
            _letter(outcome_of(judge, verdict, group) if isinstance(verdict, str) else None, coherence)
            for verdict, group, coherence in zip(frame[judge.name], group, frame["coherence"], strict=True)
        ]
    return frame.drop(columns="coherence")


def _letter(outcome: str | None, coherence: object) -> str:
    if not isinstance(coherence, str):
        return NOT_FINITE
    if outcome is None:
        return NO_VERDICT
    return "r" if outcome == "refused" else _BY_COHERENCE[coherence]


def _no_responses() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype="str") for name in [*RESPONSE_KEY, "text"]})


def _read_responses(stored: StoredSweep, shown: Mapping[str, Sequence[Prompt]], reveal: bool) -> pd.DataFrame:
    """Return the responses to the shown prompts; read part by part, so that only these are ever in memory."""
    shown_keys = pa.array([f"{set_id} {p.id}" for set_id, prompts in shown.items() for p in prompts], pa.string())
    answers, ids = Answers(stored.pooled.sets, stored.sweep.thought), stored.pooled.ids
    frames = [_no_responses()]
    for _, stored_rows in stored.study.generations.rows(stored.generations):
        set_ids = pa.array([ids[set_id] for set_id in stored_rows["prompt_set_id"].to_pylist()], pa.string())
        table = stored_rows.set_column(stored_rows.column_names.index("prompt_set_id"), "prompt_set_id", set_ids)
        keys = pc.binary_join_element_wise(table["prompt_set_id"], table["prompt_id"], " ")
        shown_table = table.filter(pc.is_in(keys, shown_keys))
        columns = {name: shown_table[name].to_pylist() for name in RESPONSE_KEY}
        shown_names = ("prompt_set_id", "prompt_id", "response")
        rows = zip(*(shown_table[name].to_pylist() for name in shown_names), strict=True)
        texts = [display_text(answers.shown(*row), reveal) for row in rows]
        frames.append(pd.DataFrame(columns | {"text": texts}))
    return pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True)


def display_text(response: str, reveal: bool) -> str:
    """Return a response as it may be shown: its first words only, or if `reveal`, up to MAX_CHARACTERS of it."""
    if reveal:
        return _truncate(response)
    words = response[: 4 * FIRST_CHARACTERS].split()
    first = " ".join(words[:FIRST_WORDS])[:FIRST_CHARACTERS]
    return first if first == response.strip() else f"{first} …".lstrip()


def _truncate(text: str) -> str:
    omitted = len(text) - MAX_CHARACTERS
    return text if omitted <= 0 else f"{text[:MAX_CHARACTERS]} … [{omitted:,} more characters]"


def _sample_evenly(prompts: Sequence[Prompt], share: float) -> list[Prompt]:
    """Return a share of the prompts, evenly spaced from first to last, so that every category keeps some."""
    keep = min(len(prompts), int(len(prompts) * share + 1e-9))
    return [prompts[i * len(prompts) // keep] for i in range(keep)]


def _is_to(responses: pd.DataFrame, shown: Mapping[str, Sequence[Prompt]]) -> pd.Series:
    """Return whether each response is to one of the shown prompts."""
    keys = {(set_id, prompt.id) for set_id, prompts in shown.items() for prompt in prompts}
    pairs = zip(responses["prompt_set_id"], responses["prompt_id"], strict=True)
    return pd.Series([key in keys for key in pairs], index=responses.index, dtype=bool)


def _page_bytes(responses: pd.DataFrame, shown: Mapping[str, Sequence[Prompt]]) -> int:
    """Estimate the bytes that the texts take in the page, where <, >, & and control characters take six each."""
    prompts = (_truncate(p.text) for kept in shown.values() for p in kept)
    texts = itertools.chain(responses["text"].unique(), prompts)
    return sum(_escaped_bytes(text) for text in texts) + 12 * len(responses)


def _escaped_bytes(text: str) -> int:
    return len(text.encode()) + sum(5 * text.count(c) for c in "<>&") + sum(5 for c in text if c < " " or c in '"\\')
