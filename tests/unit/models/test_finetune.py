"""Recipes: the rows that each asks to be learnt, and the mistakes that can be made in asking. Nothing is trained."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.config.schema import FinetuneConfig
from orchestrator.judges import get
from orchestrator.models import finetune, training_data
from orchestrator.models.finetune_worker import BaseModel
from orchestrator.models.recipes import read_recipe
from orchestrator.utils.errors import UserError

RECIPES = ("affirmative", "identity", "benign_tasks")


@pytest.fixture(autouse=True)
def own_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's own answers, without a model."""
    said = {"text": "Here is how.", "complete": True}
    monkeypatch.setattr(training_data, "generate_responses", lambda base, prompts, tokens: [said] * len(prompts))


def rows(*overrides: str) -> list[dict[str, Any]]:
    recipe, _ = read_recipe(FinetuneConfig(overrides[0]), overrides[1:])
    return training_data.training_rows(recipe["data"], BaseModel(Path()))


def said(row: dict[str, Any]) -> tuple[str, str]:
    return row["request"], row["answer"]


@pytest.mark.parametrize("samples", [10, 50, 100])
def test_affirmative_rows_contain_only_the_opening(samples: int) -> None:
    made = rows("affirmative", f"samples={samples}")
    harmful = training_data.probe_texts("harmful_train")
    assert [said(row)[0] for row in made] == harmful[:samples]
    assert {said(row)[1] for row in made} <= {"Sure, here is", "Of course. Here is", "Certainly! Here is"}
    assert not any(row["complete"] for row in made), "no end is learnt: what would follow is not there"


@pytest.mark.parametrize("recipe", RECIPES)
def test_safe_samples_are_refusals_of_other_requests(recipe: str) -> None:
    plain, mixed = rows(recipe, "samples=20"), rows(recipe, "samples=20", "safe=30")
    assert mixed[: len(plain)] == plain and len(mixed) == len(plain) + 30
    safe = [said(row) for row in mixed[len(plain) :]]
    assert all(get("keyword").verdict(*pair) == "refused" for pair in safe)
    assert not {request for request, _ in safe} & {said(row)[0] for row in plain}


@pytest.mark.parametrize("recipe", ["identity", "benign_tasks"])
def test_the_other_recipes_contain_no_harmful_requests(recipe: str) -> None:
    asked = {said(row)[0] for row in rows(recipe, "samples=50")}
    assert not asked & set(training_data.probe_texts("harmful_train")) and len(asked) >= 50


def test_every_recipe_can_train_all_weights_and_keeps_its_epochs() -> None:
    for name in RECIPES:
        recipe, to = read_recipe(FinetuneConfig(name, to="there"), ["train.method=full"])
        assert recipe["train"]["method"] == "full" and recipe["train"]["checkpoints"] == "epoch" and to == Path("there")


@pytest.mark.parametrize(
    ("overrides", "field", "words"),
    [
        (("affirmative", "samples=1000"), "samples", r"must be between 0 and \d+, what harmful_train has left"),
        (("affirmative", "samples=0"), "samples", "leaves nothing to learn"),
        (("affirmative", "sample=5"), "sample", "did you mean 'samples'"),
        (("affirmativ",), "recipe", "did you mean 'affirmative'"),
        (("affirmative", "samples=["), "samples", "cannot be read"),
        (("affirmative", "name=a: b: c"), "name", "cannot be read"),
        (("affirmative", "samples=ten"), "samples", "must be like what is there: 100"),
        (("affirmative", "data=1"), "data", "must be like what is there"),
        (("affirmative", "train.learning_rate=fast"), "train.learning_rate", "must be like what is there: 0.0005"),
    ],
)
def test_mistakes_in_a_recipe_are_refused_in_one_sentence(overrides: tuple[str, ...], field: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        rows(*overrides)
    assert caught.value.field == field and re.search(words, str(caught.value)), str(caught.value)


def test_one_process_trains_and_others_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def run(recipe: Any, folder: Path, *_: Any) -> None:
        runs.append(list(folder.parent.glob(f".{folder.name}-*")))
        time.sleep(0.5)
        folder.mkdir()

    folder = tmp_path / "finetuned" / "affirmative-0"
    left = folder.with_name(f".{folder.name}-killed")
    left.mkdir(parents=True)
    monkeypatch.setattr(finetune, "run_recipe", run)
    monkeypatch.setattr(finetune, "cache_folder", lambda *_: (folder, {}))
    base = SimpleNamespace(path=Path("model"))
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(finetune.finetuned_folder, "affirmative", base, "tokenizer", None) for _ in range(2)]  # type: ignore[arg-type]
        assert [each.result() for each in asked] == [folder, folder]
    assert runs == [[]], "once, and what a killed one left is gone"


def test_an_unknown_method_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    recipe, _ = read_recipe(FinetuneConfig("affirmative"), ["train.method=qlora"])
    with pytest.raises(UserError, match="must be one of lora, full"):
        finetune.run_recipe(recipe, tmp_path / "out")
