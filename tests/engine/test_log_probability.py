"""Responses are read under the unperturbed model, whatever point the actor applied before."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.store.study import Study, StudyInfo
from orchestrator.sweep.continuations import Continuation, ContinuationBatch, context_id
from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.points import Point
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling, Visit
from workers.actor import Actor
from workers.engines.base import EngineSpec

pytestmark = pytest.mark.engine


def test_an_actor_goes_back_to_the_origin_before_it_reads(tiny_llama: Path, tmp_path: Path) -> None:
    study = Study.create(tmp_path, StudyInfo("tiny", "f", "float32", 1))
    actor = Actor(
        EngineSpec(kind="transformers", model_dir=str(tiny_llama), max_model_len=128), str(study.root), study.id
    )
    actor.load()
    direction = RandomDirection(seed=5)
    ids = ((7, 8, 9, 10), (11, 12))
    prompts = PromptSet("harmful", (Prompt("a"), Prompt("b")), ("a", "b"), ids, Sampling(6))
    actor.set_inputs({prompts.id: prompts}, {direction.id: actor.measure(direction)})
    texts = ("Sure, here is a list", "I cannot help")
    pairs = zip(ids, texts, strict=True)
    batch = ContinuationBatch(tuple(Continuation(context_id(tokens), "p", tokens, text) for tokens, text in pairs))
    fresh = actor.log_probabilities(batch).table
    away = Visit(Point.from_coefficients([(direction, 0.4)]), (prompts.id,))
    perturbed = actor.visit(away).table
    actor.engine.apply_point(away.point, {direction.id: actor.measure(direction)})
    there = [result.mean for result in actor.engine.log_probabilities(batch.continuations)]
    assert there != fresh["mean"].to_pylist(), "the perturbation changes log-probabilities"
    assert actor.log_probabilities(batch).table.equals(fresh)
    again = actor.visit(away).table
    assert perturbed is not None and again is not None
    assert again["response"].equals(perturbed["response"]), "reading leaves no trace in later visits"
