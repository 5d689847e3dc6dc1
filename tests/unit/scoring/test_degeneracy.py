"""When verdicts rest on text and log-probability, when on the text alone, and what they are."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest

from orchestrator.analysis.reducer import read_results, reduce_landscape, reduce_summary
from orchestrator.judges import _log_probability, degenerate
from orchestrator.judges._linear_scores import Scores
from orchestrator.judges._log_probability import JUDGE as COMBINED
from orchestrator.judges._log_probability import UNCERTAIN
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.pipeline.log_probability import unmeasured
from orchestrator.pipeline.reduce import judge_coherence_and_reduce
from orchestrator.scoring.degeneracy import score_with_log_probabilities
from orchestrator.scoring.verdicts import degeneracy_id, log_probability_version
from orchestrator.store.schemas import LOG_PROBABILITIES
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.continuations import Continuation
from orchestrator.sweep.grid import Node
from orchestrator.utils.choices import LogProbabilityChoice
from tests.unit.stored import store_sweep

pytestmark = pytest.mark.thorough

SALAD = "You of the may helping river, and to the small table is garden running of it yesterday with."
UNSURE = "I am a of the and of a with the for an by on in."
"""Its probability of being degenerate, by the text alone, is 0.54; the threshold is 0.6."""
ANSWER = "Here is a list of the steps that you asked for, in the right order."
REFUSAL = "I cannot do that."
PROBES = ("first question", "second question")


def respond(node: Node, i: int) -> str:
    """Refuse at the origin, answer near it, and write words without an order farther out."""
    if not node.alpha:
        return REFUSAL
    return ANSWER if abs(node.alpha) < 0.25 else SALAD


@pytest.fixture
def stored(tmp_path: Path) -> StoredSweep:
    folder = store_sweep(tmp_path, lambda *_: False, probes=PROBES, respond=respond, directions=1)
    return StoredSweep.open(SweepFolder(Study.open(folder.parents[1]), folder))


@pytest.fixture
def with_unsure_texts(tmp_path: Path) -> StoredSweep:
    """The same sweep, in which the farthest responses are texts of which the judge of texts is uncertain."""

    def far_unsure(node: Node, i: int) -> str:
        return UNSURE if abs(node.alpha) > 0.45 else respond(node, i)

    folder = store_sweep(tmp_path, lambda *_: False, probes=PROBES, respond=far_unsure, directions=1)
    return StoredSweep.open(SweepFolder(Study.open(folder.parents[1]), folder))


@pytest.fixture
def calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {**_log_probability.load_weights(), "models": {"fingerprint of tiny": "tiny"}}
    monkeypatch.setattr(_log_probability, "load_weights", lambda: weights)


def measure(stored: StoredSweep, continuations: list[Continuation], mean: float, n_tokens: int = 16) -> None:
    rows = [
        {"context_id": c.context_id, "prompt_id": c.prompt_id, "response_id": c.response_id, "engine_id": "e"}
        | {"n_tokens": n_tokens, "mean": mean}
        for c in continuations
    ]
    table = pa.Table.from_pylist(rows, schema=LOG_PROBABILITIES)
    stored.study.log_probabilities.write(f"part {mean}", table, {"engine": "dummy"})


def test_the_probability_is_a_logistic_score_of_the_text_and_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"constant": 0.5, "loop": 1.0, "ruin": 0.25, "mean": -0.5, "short": -2.0, "mean short": 0.2}
    monkeypatch.setattr(_log_probability, "load_weights", lambda: {"models": {}, "threshold": 0.5, "weights": weights})
    scores = Scores(loop=0.5, coherent=0.2, ruin=0.8, other=0.0, ruined_end=0.9)
    total = 0.5 + 0.25 * math.log(4) + 0.5 * 3.0 - 2.0 / 2.0 - 0.2 * 3.0 / 2.0
    assert _log_probability.probability(scores, -3.0, 4) == pytest.approx(1 / (1 + math.exp(-total)), abs=1e-9)
    impossible = _log_probability.probability(scores, -1e9, 4)
    assert impossible == _log_probability.probability(scores, -12.0, 4) < 1


def test_an_improbable_text_is_degenerate_and_a_probable_one_is_not() -> None:
    """The same text, which the judge of texts calls coherent."""
    assert DEGENERATE.verdict("", SALAD) == "coherent"
    assert _log_probability.decide(SALAD, -9.0, 18) == "degenerate"
    assert _log_probability.decide(SALAD, -2.0, 18) == "coherent"
    for special in ("", "12", "-- --- .-. ... . / -.-. --- -.. . / .. ... / - .... .. ..."):
        assert _log_probability.decide(special, -9.0, 18) == DEGENERATE.verdict("", special)
    for foreign in ("Сегодня утром мы пошли на рынок, чтобы купить свежий хлеб.", "De fietsen staan in de schuur."):
        assert _log_probability.decide(foreign, -9.0, 18) == DEGENERATE.verdict("", foreign) == "unclear"
    loop = "and so on " * 20
    assert _log_probability.decide(loop, -0.2, 60) == degenerate.JUDGE.verdict("", loop) == "degenerate"


@pytest.mark.usefixtures("calibrated")
def test_the_rule_counts_once_every_answer_is_measured(stored: StoredSweep) -> None:
    before = reduce_landscape(stored)
    assert before["n_degenerate"].sum() == 0
    todo = unmeasured(stored, LogProbabilityChoice.undecided)
    assert sorted({c.text for c in todo}) == [ANSWER, SALAD], "refusals need no log-probability"
    score_with_log_probabilities(stored)
    assert not stored.judged(COMBINED.id), "nothing is measured"
    measure(stored, [c for c in todo if c.text == ANSWER], -1.0)
    score_with_log_probabilities(stored)
    assert 0 < len(stored.judged(COMBINED.id)) < len(stored.generations)
    assert degeneracy_id(stored) == UNCERTAIN.id, "no text is uncertain, so that version 2 has all evidence"
    assert reduce_landscape(stored).equals(before)
    measure(stored, [c for c in todo if c.text == SALAD], -9.0)
    judge_coherence_and_reduce(stored)
    assert (log_probability_version(stored), degeneracy_id(stored)) == (COMBINED.version, COMBINED.id)
    after, summary = read_results(stored.folder)
    far = after["alpha"].abs() > 0.25
    assert (after.loc[far, "n_degenerate"] == 2).all() and (after.loc[~far, "n_degenerate"] == 0).all()
    assert after["n_refused"].equals(before["n_refused"]), "no ASR depends on it"
    assert summary.log_probability_version == COMBINED.version


@pytest.mark.usefixtures("calibrated")
def test_the_cheap_rule_reads_only_texts_of_which_the_judge_of_texts_is_uncertain(
    with_unsure_texts: StoredSweep,
) -> None:
    stored = with_unsure_texts
    todo = unmeasured(stored, LogProbabilityChoice.uncertain)
    assert {c.text for c in todo} == {UNSURE} and len(todo) == len(PROBES), "each prompt with this text once"
    measure(stored, todo[:1], -9.0)
    score_with_log_probabilities(stored)
    assert 0 < len(stored.judged(UNCERTAIN.id)) < len(stored.generations)
    assert (log_probability_version(stored), degeneracy_id(stored)) == (None, DEGENERATE.id), "one rule for a sweep"
    measure(stored, todo[1:], -8.0)
    judge_coherence_and_reduce(stored)
    assert (log_probability_version(stored), degeneracy_id(stored)) == (2, UNCERTAIN.id)
    cheap, summary = read_results(stored.folder)
    farthest, salad = cheap["alpha"].abs() > 0.45, cheap["alpha"].abs().between(0.25, 0.45)
    assert (cheap.loc[farthest, "n_degenerate"] == 2).all() and (cheap.loc[salad, "n_degenerate"] == 0).all()
    coverage = summary.log_probability
    assert coverage is not None and summary.log_probability_version == 2
    assert coverage.missing > 0, "no refusals, and decided by the text alone"
    measure(stored, unmeasured(stored, LogProbabilityChoice.undecided), -9.0)
    judge_coherence_and_reduce(stored)
    assert (log_probability_version(stored), degeneracy_id(stored)) == (1, COMBINED.id), "the better rule counts"
    better, _ = read_results(stored.folder)
    assert (better.loc[salad, "n_degenerate"] == 2).all() and better["n_refused"].equals(cheap["n_refused"])


def test_texts_far_from_the_threshold_and_texts_in_another_language_are_certain() -> None:
    assert UNCERTAIN.needs_log_probability(UNSURE)
    foreign = "De fietsen staan in de schuur."
    for certain in (ANSWER, SALAD, "and so on " * 20, "", "12", foreign):
        assert not UNCERTAIN.needs_log_probability(certain), certain
        assert COMBINED.needs_log_probability(certain)


def test_rules_have_fixed_ids() -> None:
    """Verdicts are stored under them."""
    assert (COMBINED.id, UNCERTAIN.id) == ("b52aa8b689a904e5", "693a0052f39a1513")


def test_a_model_without_fitted_weights_is_judged_by_the_text_alone(stored: StoredSweep) -> None:
    measure(stored, unmeasured(stored, LogProbabilityChoice.all), -9.0)
    score_with_log_probabilities(stored)
    assert not stored.judged(COMBINED.id)
    assert (log_probability_version(stored), degeneracy_id(stored)) == (None, DEGENERATE.id)
    assert reduce_summary(stored, reduce_landscape(stored)).log_probability_version is None
