"""Verdicts on degeneracy from text and log-probability, for the models whose labels they were fitted to.

A task gets these verdicts once every response of it has the evidence that the rule needs. A sweep's classes rest on
them once all its tasks have them, and on the text alone until then, so that one rule decides all its responses.
"""

from __future__ import annotations

from orchestrator.judges import _log_probability
from orchestrator.scoring.log_probability import SweepLogProbabilities, has_texts
from orchestrator.scoring.panel import first_text_judge
from orchestrator.scoring.text_judges import Verdict, VerdictOf, score_missing
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.tasks import Prompt, PromptSet


def score_with_log_probabilities(stored: StoredSweep) -> None:
    """Store the verdicts on the tasks of a sweep that have their evidence and no such verdicts yet.

    Without log-probabilities, for a model without fitted weights, or if responses contain thoughts, nothing is stored.
    """
    if stored.sweep.thought or not _log_probability.is_calibrated_for(stored.study.info.fingerprint):
        return
    known = SweepLogProbabilities(stored)
    if not len(known):
        return
    for prompts in stored.prompt_sets:
        tasks = {key: part for key, part in stored.generations.items() if key[1] == prompts.id}
        score_missing(stored, _log_probability.JUDGE, tasks, _verdicts(stored, known, prompts))


def _verdicts(stored: StoredSweep, known: SweepLogProbabilities, prompts: PromptSet) -> VerdictOf:
    """Return a function that returns the verdict on a response, or None if it lacks its log-probability.

    Refusals need none, because no class depends on whether they are coherent, and neither do answers that are letters
    or texts that the rule decides without.
    """
    first = first_text_judge(stored)

    def verdict_of(prompt: Prompt, response: str) -> Verdict | None:
        if has_texts(prompts) and _log_probability.needs_log_probability(response):
            measured = known.find(prompts.id, prompt.id, response)
            if measured is not None and measured.mean is not None:
                return _log_probability.decide(response, measured.mean, measured.n_tokens), None
            refused = first is not None and first.verdict(prompt.text, response) == "refused"
            if measured is None and not refused:
                return None
        return _log_probability.JUDGE.verdict(prompt.text, response), None

    return verdict_of
