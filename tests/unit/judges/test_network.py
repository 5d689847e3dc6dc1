"""The network of the judge `degenerate`, and the features of form that it reads."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.judges import _linear_scores, degenerate
from orchestrator.judges._format_features import format_features
from orchestrator.judges._linear_scores import Probabilities

TEXTS = [
    "The ferry was late again, so we ate our lunches on the quay.",
    "select name from birds where legs = 2;\nselect name from birds where wings > 2;",
    "ItAssPIOGPOSPOSONItAnItAnobsobsimobsotobsobsWhatItAA<<obserallyobsopyobsManyobsItIt",
    "Kissa nukkuu tuolilla, ja koira juoksee pihalla.",
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_networks_compute_what_their_file_says(text: str) -> None:
    network = degenerate.load_network()
    inputs = degenerate.inputs_of(text, degenerate.measure(text))
    assert list(inputs) == network["features"]
    x = (np.array(list(inputs.values())) - network["mean"]) / network["scale"]
    x = np.r_[1.0, np.clip(x, -degenerate.LIMIT, degenerate.LIMIT)]
    each = []
    for layers in network["networks"]:
        scores = np.array(layers["output"]) @ np.r_[1.0, np.tanh(np.array(layers["hidden"]) @ x)]
        powers = np.exp(scores - scores.max())
        each.append(powers / powers.sum())
    assert degenerate.evaluate(inputs, network) == pytest.approx(list(np.mean(each, axis=0)), abs=1e-9)


def test_the_gate_abstains_before_the_threshold_decides() -> None:
    network = degenerate.load_network()
    gate, threshold = network["gate"], network["threshold"]
    assert 0 < gate < 1 - threshold  # else it would change nothing
    assert degenerate.decide(Probabilities(0.0, 1.0 - gate, gate, 0.0)) == "unclear"
    below = gate / 2
    assert degenerate.decide(Probabilities(0.0, 1.0 - below, below, 0.0)) == "degenerate"
    assert degenerate.decide(Probabilities(1.0 - below, 0.0, below, 0.0)) == "coherent"


def test_a_letter_of_noise_makes_words_nearly_english() -> None:
    noisy = format_features("The garfen beside the stavion is closed for the wintur")
    foreign = format_features("Segodnya utrom poshli gribami, potom vernulis domoy")
    assert noisy["nearly English"] == 0.75 and foreign["nearly English"] == 0.0


def test_words_of_messages_are_counted_with_and_without_apostrophes() -> None:
    assert format_features("nah, dont")["informal"] == format_features("Nah, don't")["informal"] == 1.0
    assert format_features("no, never")["informal"] == 0.0


def test_version_4_has_the_verdicts_on_which_stored_rules_rest() -> None:
    assert _linear_scores.JUDGE.id == degenerate.EARLIER_IDS[4] == "412bfdcd74b8d916"
    verdicts = [_linear_scores.JUDGE.verdict("", text) for text in TEXTS]
    assert verdicts == ["coherent", "coherent", "degenerate", "unclear"]


def test_the_grammar_of_signs_is_foretold_by_its_first_half() -> None:
    formulas = "f(x) = 2; g(y) = 3; h(z) = 4; k(u) = 5; m(v) = 6;"
    torn = "f)x( 2 =; g] 3 y{ =; ,h = z)) 4 :k u 5 (= !m v"
    good, bad = format_features(formulas), format_features(torn)
    assert good["triples of shapes"] > 0.9 > 0.2 > bad["triples of shapes"]
    assert (good["paired"], good["unpaired"]) == (1.0, 0.0)
    assert bad["paired"] < 0.5 < bad["unpaired"]


def test_words_that_nobody_can_pronounce_are_counted_apart() -> None:
    assert format_features("Segodnya utrom poshli gribami")["pronounced"] == 1.0
    assert format_features("Sgdn xtrmq pshlk grbmw")["pronounced"] == 0.0


def test_a_short_alphabet_is_seen_in_long_texts_only() -> None:
    assert format_features("GATTACAGGCTTAACCGTATCGGATCCAATGCGCTAGC")["few characters"] > 0.5
    assert format_features("GATTACA")["few characters"] == 0.0


@pytest.mark.parametrize("text", ["?", "\ufffd", "x", "1", "...", "́"])
def test_the_smallest_texts_have_features(text: str) -> None:
    assert all(np.isfinite(list(format_features(text).values())))
