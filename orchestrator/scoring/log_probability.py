"""Log-probabilities of a sweep's responses under the unperturbed model: which are stored, and which are to be measured.

The engine measures them at the origin after the sweep (orchestrator/pipeline/log_probability.py). Reading them needs no
engine. Responses are found by the ids in the verdicts on degeneracy, one part at a time, so that memory does not grow
with the number of responses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.judges import Judge
from orchestrator.judges._log_probability import needs_log_probability
from orchestrator.scoring.panel import degeneracy_judge, first_text_judge
from orchestrator.store.log_probabilities import NOT_STORED, integers
from orchestrator.store.parts import TaskKey, TaskParts
from orchestrator.store.schemas import RESPONSE_KEY
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.continuations import Continuation, LogProbability, LogProbabilityCoverage, context_id
from orchestrator.sweep.tasks import PromptSet
from orchestrator.utils.choices import LogProbabilityChoice
from orchestrator.utils.hashing import text_id

NO_TEXT = "0" * 16
"""Context id of prompts whose responses are not texts."""


@dataclass(frozen=True)
class _Responses:
    """The responses in one part of the verdicts on degeneracy.

    Attributes:
        table: The verdicts.
        is_text: Whether each response is a text, bool[n].
        decided: Whether its class needs no log-probability, because it is a refusal by the sweep's first judge (if that
            is a text judge), bool[n].
        measured: Whether its log-probability is stored, bool[n].
    """

    table: pa.Table
    is_text: np.ndarray
    decided: np.ndarray
    measured: np.ndarray


class SweepLogProbabilities:
    """The stored log-probabilities of a sweep's responses.

    Multiple-choice sets are left out, because a letter is no text.
    """

    def __init__(self, stored: StoredSweep) -> None:
        """Read all log-probabilities that are stored in the sweep's study."""
        self._stored = stored
        self._index = stored.study.log_probabilities.read()
        self._prompts = {
            (prompts.id, prompt.id): Continuation(context_id(ids), prompt.id, ids, "")
            for prompts in stored.prompt_sets
            if has_texts(prompts)
            for prompt, ids in zip(prompts.prompts, prompts.token_ids, strict=True)
        }
        self._contexts = {" ".join(key): prompt.context_id for key, prompt in self._prompts.items()}

    def __len__(self) -> int:
        """Return the number of continuations that are stored in the sweep's study."""
        return len(self._index)

    def find(self, prompt_set_id: str, prompt_id: str, response: str) -> LogProbability | None:
        """Return the log-probability of a response given its prompt, or None if it is not stored."""
        prompt = self._prompts.get((prompt_set_id, prompt_id))
        if prompt is None:
            return None
        means, n_tokens = self._index.find(integers([prompt.context_id]), integers([text_id(response)]))
        if n_tokens[0] == NOT_STORED:
            return None
        return LogProbability(None if np.isnan(means[0]) else float(means[0]), int(n_tokens[0]))

    def columns(self, judged: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Return the log-probabilities of judged responses.

        Args:
            judged: Rows of the JUDGEMENTS schema, of any judge.

        Returns:
            The mean log-probability of each row's response, NaN if it is undefined or not stored; and the number of
            tokens in this mean, NOT_STORED if it is not stored.
        """
        return self._index.find(self._contexts_of(judged), integers(judged["response_id"].to_pylist()))

    def coverage(self) -> LogProbabilityCoverage:
        """Count the sweep's judged responses that are texts."""
        measured = decided = missing = 0
        for responses in self._responses(self._stored.generations):
            unmeasured = responses.is_text & ~responses.measured
            measured += int(responses.measured.sum())
            decided += int((unmeasured & responses.decided).sum())
            missing += int((unmeasured & ~responses.decided).sum())
        return LogProbabilityCoverage(measured, decided, missing)

    def unmeasured(self, tasks: TaskParts, chosen: LogProbabilityChoice) -> list[Continuation]:
        """Return the different continuations among judged responses that have no log-probability yet.

        Args:
            tasks: The tasks whose responses are considered, with their parts.
            chosen: Which of them should have one.
        """
        wanted: dict[TaskKey, set[str]] = {}  # the prompts of each task whose responses are to be measured
        if chosen != LogProbabilityChoice.none:
            for responses in self._responses(tasks):
                rows = responses.is_text & ~responses.measured
                if chosen != LogProbabilityChoice.all:
                    rows &= ~responses.decided
                table = responses.table.filter(pa.array(rows))
                for point, set_id, prompt in zip(*(table[name].to_pylist() for name in RESPONSE_KEY), strict=True):
                    wanted.setdefault((point, set_id), set()).add(prompt)
        different: dict[tuple[str, str], Continuation] = {}
        for _, table in self._stored.study.generations.rows({key: tasks[key] for key in tasks if key in wanted}):
            columns = (table[name].to_pylist() for name in (*RESPONSE_KEY, "response"))
            for point, set_id, prompt, text in zip(*columns, strict=True):
                if prompt not in wanted[point, set_id]:
                    continue
                if chosen == LogProbabilityChoice.uncertain and not needs_log_probability(text):
                    continue
                continuation = dataclasses.replace(self._prompts[set_id, prompt], text=text)
                different.setdefault((continuation.context_id, continuation.response_id), continuation)
        return list(different.values())

    def _responses(self, tasks: TaskParts) -> Iterator[_Responses]:
        """Yield the judged responses of these tasks, part by part; those without a verdict are no answers."""
        first = first_text_judge(self._stored)
        degenerate_id = degeneracy_judge(self._stored).id
        judged = {key: part for key, part in self._stored.judged(degenerate_id).items() if key in tasks}
        for part, judgements in self._stored.study.judgements(degenerate_id).rows(judged):
            table = judgements.filter(pc.is_valid(judgements["verdict"]))
            decided = np.zeros(table.num_rows, bool)
            if first is not None:
                decided = self._refused(first, table, [key for key in part.tasks if key in judged])
            is_text = self._contexts_of(table) != 0
            measured = np.zeros(table.num_rows, bool)
            if len(self._index):
                measured = is_text & (self.columns(table)[1] != NOT_STORED)
            yield _Responses(table, is_text, decided, measured)

    def _refused(self, judge: Judge, table: pa.Table, tasks: list[TaskKey]) -> np.ndarray:
        """Return whether a judge counts each response of a table as a refusal, bool[n]. False without a verdict."""
        judged = self._stored.judged(judge.id)
        parts = {key: judged[key] for key in tasks if key in judged}
        tables = [other for _, other in self._stored.study.judgements(judge.id).rows(parts)]
        verdicts = pa.concat_tables([table.schema.empty_table(), *tables])
        verdicts = verdicts.filter(pc.is_valid(verdicts["verdict"]))
        if all(table[name].equals(verdicts[name]) for name in RESPONSE_KEY):
            return pc.equal(verdicts["verdict"], "refused").to_numpy()
        refused = verdicts.filter(pc.equal(verdicts["verdict"], "refused"))
        keys = set(zip(*(refused[name].to_pylist() for name in RESPONSE_KEY), strict=True))
        rows = zip(*(table[name].to_pylist() for name in RESPONSE_KEY), strict=True)
        return np.fromiter((row in keys for row in rows), bool, table.num_rows)

    def _contexts_of(self, judged: pa.Table) -> np.ndarray:
        """Return the context id of each row, uint64[n]; 0 for a row of a prompt set that is left out."""
        joined = pc.binary_join_element_wise(judged["prompt_set_id"], judged["prompt_id"], " ")
        encoded = joined.combine_chunks().dictionary_encode()
        ids = integers([self._contexts.get(key, NO_TEXT) for key in encoded.dictionary.to_pylist()])
        return ids[encoded.indices.to_numpy()]


def has_texts(prompts: PromptSet) -> bool:
    """Return whether responses to a prompt set are texts: not if the model chooses a letter."""
    return not prompts.sampling.letters
