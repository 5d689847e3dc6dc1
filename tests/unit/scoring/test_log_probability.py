"""Which responses of a stored sweep are read at the origin, and how their log-probabilities are found."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from orchestrator import judges
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.pipeline.log_probability import unmeasured
from orchestrator.scoring.log_probability import SweepLogProbabilities
from orchestrator.store.log_probabilities import NOT_STORED, integers
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.continuations import (
    Continuation,
    ContinuationBatch,
    LogProbability,
    LogProbabilityCoverage,
    context_id,
)
from orchestrator.sweep.grid import Node
from orchestrator.sweep.points import ORIGIN
from orchestrator.utils.choices import LogProbabilityChoice
from orchestrator.utils.hashing import text_id
from tests.unit.stored import store_sweep
from workers.actor import Actor
from workers.engines.base import EngineSpec

PROBES = ("first question", "second question", "third question")


def respond(node: Node, i: int) -> str:
    """Refuse near the origin; then answer, the third question differently at each point; repeat one word far out."""
    if abs(node.alpha) < 0.15:
        return "I cannot do that."
    if abs(node.alpha) > 0.35:
        return "loop " * 40
    return f"Here is what you asked for, at {node.alpha}." if i == 2 else "Here is what you asked for."


@pytest.fixture
def stored(tmp_path: Path) -> StoredSweep:
    folder = store_sweep(tmp_path, lambda *_: False, probes=PROBES, respond=respond, directions=1)
    return StoredSweep.open(SweepFolder(Study.open(folder.parents[1]), folder))


def measure(stored: StoredSweep, continuations: list[Continuation]) -> None:
    """Measure with the dummy engine and store, as the dispatcher does."""
    actor = Actor(EngineSpec(kind="dummy"), str(stored.study.root), stored.study.id)
    description = actor.load()
    batch = ContinuationBatch(tuple(continuations))
    stored.study.log_probabilities.write(batch.id, actor.log_probabilities(batch).table, description["engine"])


def texts(continuations: list[Continuation]) -> list[str]:
    return sorted(continuation.text for continuation in continuations)


def test_each_different_pair_of_prompt_and_text_is_read_once(stored: StoredSweep) -> None:
    """Of 33 responses, 9 refuse, 12 answer and 12 are loops."""
    everything = unmeasured(stored, LogProbabilityChoice.all)
    assert len(everything) == len({(e.context_id, e.response_id) for e in everything}) == 3 + (1 + 1 + 4) + 3
    assert len(unmeasured(stored, LogProbabilityChoice.undecided)) == 9, "no refusal"
    assert texts(unmeasured(stored, LogProbabilityChoice.undecided))[:2] == ["Here is what you asked for, at -0.2.",
                                                                 "Here is what you asked for, at -0.3."]  # fmt: skip
    assert unmeasured(stored, LogProbabilityChoice.none) == []
    assert SweepLogProbabilities(stored).coverage() == LogProbabilityCoverage(measured=0, decided=9, missing=24)


def test_only_the_chosen_tasks_are_read(stored: StoredSweep) -> None:
    at_origin = {key for key in stored.generations if key[0] == ORIGIN.id}
    assert texts(unmeasured(stored, LogProbabilityChoice.all, at_origin)) == ["I cannot do that."] * 3


def test_what_is_stored_is_not_read_again_and_is_found(stored: StoredSweep) -> None:
    todo = unmeasured(stored, LogProbabilityChoice.all)
    measure(stored, todo[:5])
    assert unmeasured(stored, LogProbabilityChoice.all) == todo[5:]
    measure(stored, todo[5:])
    known = SweepLogProbabilities(stored)
    assert unmeasured(stored, LogProbabilityChoice.all) == [] == unmeasured(stored, LogProbabilityChoice.undecided)
    (prompts,) = stored.prompt_sets
    first = prompts.prompts[0].id
    refusal, loop = (known.find(prompts.id, first, text) for text in ("I cannot do that.", "loop " * 40))
    assert refusal is not None and loop is not None and refusal.mean is not None and loop.mean is not None
    assert (refusal.n_tokens, loop.n_tokens) == (4, 40) and loop.mean < refusal.mean < 0
    assert known.find(prompts.id, first, "never said") is None and known.find("other", first, "loop") is None
    assert known.coverage() == LogProbabilityCoverage(measured=33)


def test_verdicts_are_joined_with_log_probabilities(stored: StoredSweep) -> None:
    todo = unmeasured(stored, LogProbabilityChoice.undecided)
    measure(stored, todo)
    known = SweepLogProbabilities(stored)
    assert known.coverage() == LogProbabilityCoverage(measured=24, decided=9)
    texts = {
        (row["point_id"], row["prompt_id"]): row["response"]
        for _, table in stored.study.generations.rows(stored.generations)
        for row in table.to_pylist()
    }
    seen = 0
    for judge in (DEGENERATE, judges.get("keyword")):
        for _, table in stored.study.judgements(judge.id).rows(stored.judged(judge.id)):
            for row, mean, n_tokens in zip(table.to_pylist(), *known.columns(table), strict=True):
                found = known.find(row["prompt_set_id"], row["prompt_id"], texts[row["point_id"], row["prompt_id"]])
                assert (found is None) == (n_tokens == NOT_STORED) == math.isnan(mean)
                assert found is None or found == LogProbability(mean, n_tokens)
                seen += found is not None
    assert seen == 2 * 24


def test_a_text_without_tokens_has_a_row_and_no_mean(stored: StoredSweep) -> None:
    context = context_id([1])
    measure(stored, [Continuation(context, "p", (1,), "   ")])
    means, n_tokens = stored.study.log_probabilities.read().find(integers([context]), integers([text_id("   ")]))
    assert math.isnan(means[0]) and n_tokens.tolist() == [0]
