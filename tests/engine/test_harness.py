"""Questions are presented, scored and answered as by lm-evaluation-harness itself.

`scores.json` holds what the harness computed (its version is inside); `make harness` writes it anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.models.embedded import ADAPTER_OF_PRESET, embedded_model
from orchestrator.prompts.capability import chosen_letter
from orchestrator.prompts.probe_sets import load_probe_set
from orchestrator.prompts.rendering import SystemPrompt, render_prompt_sets
from orchestrator.sweep.points import Point
from orchestrator.sweep.tasks import PromptSet, Sampling
from orchestrator.utils.choices import EngineKind
from tests.harness.environment import MODEL, QUESTIONS, SCORES, SHOTS, TURNS, run_harness
from tests.unit.prompts.test_probe_sets import preset
from workers.engines.base import Engine, EngineSpec, Generation
from workers.engines.factory import open_engine

pytestmark = pytest.mark.engine
TOLERANCE = 1e-4
Scored = dict[str, Any]


@pytest.fixture(scope="module")
def stored() -> Mapping[str, list[Scored]]:
    scores = json.loads(SCORES.read_text(encoding="utf-8"))
    assert scores["versions"]["lm_eval"] == "0.4.13" and scores["shots"] == SHOTS
    return scores["turns"]


@pytest.fixture(scope="module")
def model() -> Path:
    return embedded_model(ADAPTER_OF_PRESET[MODEL])


def prompt_set(model: Path, turns: str, limit: int | None = None) -> PromptSet:
    questions, solved = (str(QUESTIONS / f"{split}.jsonl") for split in ("test", "dev"))
    probes = load_probe_set(preset("mmlu", path=questions, shots_path=solved, shots=SHOTS, turns=turns, limit=limit))
    sampling = Sampling(1, (), probes.letters)
    return render_prompt_sets(model, [probes], [SystemPrompt("default", None)], lambda _: sampling)[0]


def score(engine: Engine, prompts: PromptSet) -> list[Generation]:
    engine.apply_point(Point(), {})
    return engine.generate([prompts])[0]


@pytest.fixture(scope="module")
def open_one(model: Path) -> Iterator[Callable[[EngineKind], Engine]]:
    """Return a function that opens an engine; the last one is closed first."""
    engines: list[Engine] = []

    def open_kind(kind: EngineKind) -> Engine:
        if not engines or engines[-1].spec.kind != kind:
            if engines:
                engines.pop().close()
            spec = EngineSpec(kind=kind, model_dir=str(model), max_model_len=1024, max_num_seqs=8, kv_cache_gib=0.25)
            engines.append(open_engine(spec))
        return engines[-1]

    yield open_kind
    for engine in engines:
        engine.close()


def assert_equal_scores(prompts: PromptSet, generations: list[Generation], scored: list[Scored], turns: str) -> None:
    """Assert that contexts and answers are the harness's, and log-probabilities within TOLERANCE.

    In a chat the harness counts the newline at the end of the template among the tokens of the answer, which adds the
    same log-probability to all letters of a question.
    """
    by_context = {question["context"]: question for question in scored}
    for text, generation in zip(prompts.rendered, generations, strict=True):
        expected = by_context[text]
        assert generation.scores is not None
        assert chosen_letter(4, generation.scores) == expected["predicted"]
        difference = np.array(expected["log_probabilities"]) - np.array(generation.scores)
        offset = 0.0 if turns == "plain" else difference.mean()
        assert offset <= TOLERANCE, "the newline's log-probability is not positive"
        assert np.abs(difference - offset).max() < TOLERANCE


@pytest.mark.parametrize("turns", TURNS)
def test_contexts_are_those_of_the_harness(
    turns: str, model: Path, stored: Mapping[str, list[Scored]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path))
    prompts = prompt_set(model, turns)
    assert list(prompts.rendered) == [question["context"] for question in stored[turns]]
    assert [len(set(question["continuations"])) for question in stored[turns]] == [4] * 18


def test_letters_and_log_probabilities_are_those_of_the_harness(
    model: Path, stored: Mapping[str, list[Scored]], open_one: Callable[[EngineKind], Engine]
) -> None:
    engine = open_one(EngineKind.transformers)
    for turns, limit in (("plain", 6), ("chat", 2), ("multiturn", 2)):
        prompts = prompt_set(model, turns, limit)
        assert_equal_scores(prompts, score(engine, prompts), stored[turns], turns)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [EngineKind.transformers, EngineKind.vllm])
def test_every_question_of_every_form_is_scored_as_by_the_harness(
    kind: EngineKind, model: Path, stored: Mapping[str, list[Scored]], open_one: Callable[[EngineKind], Engine]
) -> None:
    engine = open_one(kind)
    for turns in TURNS:
        prompts = prompt_set(model, turns)
        assert_equal_scores(prompts, score(engine, prompts), stored[turns], turns)


@pytest.mark.slow
def test_the_stored_scores_are_those_of_the_harness(stored: Mapping[str, list[Scored]]) -> None:
    """Runs the harness; makes its environment first, which needs the package index."""
    fresh = run_harness()
    assert fresh["versions"]["lm_eval"] == "0.4.13"
    for turns in TURNS:
        for one, other in zip(fresh["turns"][turns], stored[turns], strict=True):
            assert one["context"] == other["context"] and one["predicted"] == other["predicted"]
            np.testing.assert_allclose(one["log_probabilities"], other["log_probabilities"], atol=TOLERANCE / 2)
