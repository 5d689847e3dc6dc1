"""When verdicts rest on text and log-probability, when on the text alone, and what they are."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest

from orchestrator.analysis.reducer import read_results, reduce_landscape, reduce_summary
from orchestrator.judges import _log_probability
from orchestrator.judges._log_probability import EARLIER_IDS, DegenerateWithLogProbability, needs_log_probability
from orchestrator.judges._log_probability import JUDGE as COMBINED
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.pipeline.log_probability import unmeasured
from orchestrator.pipeline.reduce import judge_coherence_and_reduce
from orchestrator.scoring.degeneracy import score_with_log_probabilities
from orchestrator.scoring.text_judges import score_missing
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
UNSURE = "The the cat and small of, is river table of the on. An is was of by it table."
"""Its probability of being degenerate, by the text alone, is about 0.4; texts from 0.2 to 0.75 are uncertain."""
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
    weights = {"constant": 0.5, "text": 2.0, "mean": -0.5, "square": 0.1, "short": -3.0}
    monkeypatch.setattr(_log_probability, "load_weights", lambda: {"weights": weights})
    total = 0.5 + 2.0 * math.log(0.4 / 0.6) + 0.5 * 3.0 + 0.1 * 9.0 - 3.0 / 2.0
    assert _log_probability.probability(0.4, -3.0, 4) == pytest.approx(1 / (1 + math.exp(-total)), abs=1e-9)
    impossible = _log_probability.probability(0.4, -1e9, 4)
    assert impossible == _log_probability.probability(0.4, -12.0, 4) < 1


def test_an_uncertain_text_that_is_improbable_is_degenerate_and_a_probable_one_is_not() -> None:
    """The judge of texts calls it coherent."""
    assert DEGENERATE.verdict("", UNSURE) == "coherent" and needs_log_probability(UNSURE)
    assert _log_probability.decide(UNSURE, -10.0, 20) == "degenerate"
    assert _log_probability.decide(UNSURE, -4.0, 20) == "coherent"


@pytest.mark.parametrize(
    "certain",
    [ANSWER, SALAD, "and so on " * 20, "", "12", "De fietsen staan in de schuur.", "-- --- .-. ... . / -.-. --- -.. ."],
)
def test_texts_far_from_the_threshold_and_texts_in_another_language_are_judged_by_the_text_alone(certain: str) -> None:
    assert not needs_log_probability(certain)
    assert _log_probability.decide(certain, -11.0, 20) == DEGENERATE.verdict("", certain)


@pytest.mark.usefixtures("calibrated")
def test_the_rule_counts_once_every_uncertain_answer_is_measured(with_unsure_texts: StoredSweep) -> None:
    stored = with_unsure_texts
    before = reduce_landscape(stored)
    assert before["n_degenerate"].sum() == 0
    todo = unmeasured(stored, LogProbabilityChoice.uncertain)
    assert {c.text for c in todo} == {UNSURE} and len(todo) == len(PROBES), "each prompt with this text once"
    score_with_log_probabilities(stored)
    assert not stored.judged(COMBINED.id), "nothing is measured"
    measure(stored, todo[:1], -10.0)
    score_with_log_probabilities(stored)
    assert 0 < len(stored.judged(COMBINED.id)) < len(stored.generations)
    assert (log_probability_version(stored), degeneracy_id(stored)) == (None, DEGENERATE.id), "one rule for a sweep"
    measure(stored, todo[1:], -9.9)
    judge_coherence_and_reduce(stored)
    assert (log_probability_version(stored), degeneracy_id(stored)) == (3, COMBINED.id)
    after, summary = read_results(stored.folder)
    farthest = after["alpha"].abs() > 0.45
    assert (after.loc[farthest, "n_degenerate"] == 2).all() and (after.loc[~farthest, "n_degenerate"] == 0).all()
    assert after["n_refused"].equals(before["n_refused"]), "no ASR depends on it"
    coverage = summary.log_probability
    assert coverage is not None and summary.log_probability_version == 3
    assert coverage.missing > 0, "no refusals, and decided by the text alone"
    measure(stored, unmeasured(stored, LogProbabilityChoice.undecided), -10.0)
    judge_coherence_and_reduce(stored)
    more, _ = read_results(stored.folder)
    assert more["n_degenerate"].equals(after["n_degenerate"]), "further measurements change no class"


@pytest.mark.usefixtures("calibrated")
@pytest.mark.parametrize("version", EARLIER_IDS)
def test_verdicts_of_an_earlier_rule_count_until_a_sweep_has_the_evidence_of_this_one(
    with_unsure_texts: StoredSweep, version: int
) -> None:
    class EarlierRule(DegenerateWithLogProbability):
        id = EARLIER_IDS[version]

        def verdict(self, prompt: str, response: str) -> str:
            return "degenerate"

    stored = with_unsure_texts
    score_missing(stored, EarlierRule())
    judge_coherence_and_reduce(stored)
    landscape, summary = read_results(stored.folder)
    assert summary.log_probability_version == version and degeneracy_id(stored) == EARLIER_IDS[version]
    assert landscape["n_degenerate"].sum() > 2 * len(PROBES)
    measure(stored, unmeasured(stored, LogProbabilityChoice.uncertain), -10.0)
    judge_coherence_and_reduce(stored)
    assert (log_probability_version(stored), degeneracy_id(stored)) == (3, COMBINED.id)


def test_rules_have_fixed_ids() -> None:
    """Verdicts are stored under them."""
    assert (COMBINED.id, EARLIER_IDS) == ("7c76c69063a497ad", {1: "b52aa8b689a904e5", 2: "693a0052f39a1513"})


def test_a_model_without_fitted_weights_is_judged_by_the_text_alone(stored: StoredSweep) -> None:
    measure(stored, unmeasured(stored, LogProbabilityChoice.all), -9.0)
    score_with_log_probabilities(stored)
    assert not stored.judged(COMBINED.id)
    assert (log_probability_version(stored), degeneracy_id(stored)) == (None, DEGENERATE.id)
    assert reduce_summary(stored, reduce_landscape(stored)).log_probability_version is None
