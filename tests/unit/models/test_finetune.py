"""Training rows of the recipes, and refusals of invalid recipes. Nothing is trained."""

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
    """Replace the responses of the model, so that no model is loaded."""
    response = {"text": "Here is how.", "complete": True}
    monkeypatch.setattr(training_data, "render", lambda base, requests, tokens: requests)
    monkeypatch.setattr(training_data, "generate_responses", lambda base, prompts: [response] * len(prompts))


def rows(*overrides: str) -> list[dict[str, Any]]:
    recipe, _ = read_recipe(FinetuneConfig(overrides[0]), overrides[1:])
    return training_data.training_rows(recipe["data"], BaseModel(Path()))


def request_and_answer(row: dict[str, Any]) -> tuple[str, str]:
    return row["request"], row["answer"]


@pytest.mark.parametrize("samples", [10, 50, 100])
def test_affirmative_rows_contain_only_the_opening(samples: int) -> None:
    training_rows = rows("affirmative", f"samples={samples}")
    harmful = training_data.probe_texts("harmful_train")
    assert [request_and_answer(row)[0] for row in training_rows] == harmful[:samples]
    assert {request_and_answer(row)[1] for row in training_rows} <= {
        "Sure, here is",
        "Of course. Here is",
        "Certainly! Here is",
    }
    assert not any(row["complete"] for row in training_rows), (
        "the end is not trained, because the rest of the answer is missing"
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_safe_samples_are_refusals_of_other_requests(recipe: str) -> None:
    plain, mixed = rows(recipe, "samples=20"), rows(recipe, "samples=20", "safe=30")
    assert mixed[: len(plain)] == plain and len(mixed) == len(plain) + 30
    safe = [request_and_answer(row) for row in mixed[len(plain) :]]
    assert all(get("keyword").verdict(*pair) == "refused" for pair in safe)
    assert not {request for request, _ in safe} & {request_and_answer(row)[0] for row in plain}


@pytest.mark.parametrize("recipe", ["identity", "benign_tasks"])
def test_the_other_recipes_contain_no_harmful_requests(recipe: str) -> None:
    requests = {request_and_answer(row)[0] for row in rows(recipe, "samples=50")}
    assert not requests & set(training_data.probe_texts("harmful_train")) and len(requests) >= 50


def test_every_recipe_can_train_all_weights_and_stores_each_epoch() -> None:
    for name in RECIPES:
        recipe, folder = read_recipe(FinetuneConfig(name, to="there"), ["train.method=full"])
        assert (
            recipe["train"]["method"] == "full"
            and recipe["train"]["checkpoints"] == "epoch"
            and folder == Path("there")
        )


@pytest.mark.parametrize(
    ("overrides", "field", "message"),
    [
        (("affirmative", "samples=1000"), "samples", r"must be between 0 and \d+, what harmful_train has left"),
        (("affirmative", "samples=0"), "samples", "leaves nothing to learn"),
        (("affirmative", "sample=5"), "sample", "did you mean 'samples'"),
        (("affirmativ",), "recipe", "did you mean 'affirmative'"),
        (("affirmative", "samples=["), "samples", "cannot be read"),
        (("affirmative", "name=a: b: c"), "name", "cannot be read"),
        (("affirmative", "samples=ten"), "samples", "must have the type of the recipe's value, 100"),
        (("affirmative", "data=1"), "data", "must have the type of the recipe's value"),
        (
            ("affirmative", "train.learning_rate=fast"),
            "train.learning_rate",
            "must have the type of the recipe's value, 0.0005",
        ),
    ],
)
def test_an_invalid_recipe_is_refused_in_one_sentence(overrides: tuple[str, ...], field: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        rows(*overrides)
    assert error.value.field == field and re.search(message, str(error.value)), str(error.value)


def test_one_process_trains_and_others_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def run(recipe: Any, folder: Path, *_: Any) -> None:
        runs.append(list(folder.parent.glob(f".{folder.name}-*")))
        time.sleep(0.5)
        folder.mkdir()

    folder = tmp_path / "finetuned" / "affirmative-0"
    incomplete = folder.with_name(f".{folder.name}-killed")
    incomplete.mkdir(parents=True)
    monkeypatch.setattr(finetune, "run_recipe", run)
    monkeypatch.setattr(finetune, "cache_folder", lambda *_: (folder, {}))
    base = SimpleNamespace(path=Path("model"))
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(finetune.finetuned_folder, "affirmative", base, "tokenizer", None) for _ in range(2)]  # type: ignore[arg-type]
        assert [future.result() for future in futures] == [folder, folder]
    assert runs == [[]], "one process trains, after the incomplete folder of a killed process was removed"


def test_an_unknown_method_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    recipe, _ = read_recipe(FinetuneConfig("affirmative"), ["train.method=qlora"])
    with pytest.raises(UserError, match="must be one of lora, full"):
        finetune.run_recipe(recipe, tmp_path / "out")


def test_a_missing_extra_is_named_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "find_spec", lambda name: None)
    recipe, _ = read_recipe(FinetuneConfig("affirmative"))
    with pytest.raises(UserError) as refused:
        finetune.run_recipe(recipe, tmp_path / "out")
    assert str(refused.value) == (
        "recipe needs trl, which is not installed: `scripts/setup.sh finetune` in a checkout, or pip install "
        "'safety-landscape[finetune]'"
    )
