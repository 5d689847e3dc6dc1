"""Finetune a model by a recipe in a child process. The results are an adapter, a merged model and a report."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orchestrator import judges
from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.config.schema import FinetuneConfig
from orchestrator.models.checkpoint import CheckpointInfo
from orchestrator.models.embedded import materialize
from orchestrator.models.finetune_worker import BaseModel, generate_responses, render, train
from orchestrator.models.fingerprint import fingerprint
from orchestrator.models.recipes import read_recipe
from orchestrator.models.resolve import resolve_model
from orchestrator.models.training_data import encode_rows, probe_texts, training_rows
from orchestrator.sweep.thoughts import Answers
from orchestrator.utils.cache import cache_dir
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id
from orchestrator.utils.paths import expanded
from orchestrator.utils.private import locked, make_private

logger = logging.getLogger(__name__)

CACHE_VERSION = 2
"""Version of the finetunings in the cache: increase it if the same recipe would give another result."""

ADAPTER, MODEL, CHECKPOINTS = "adapter", "model", "checkpoints"
"""Folders that a finetuning leaves: a PEFT adapter, a merged (or full) model, and the checkpoints epoch-1, ..."""

METHODS = ("lora", "full")


def run_recipe(
    recipe: Mapping[str, Any],
    out: str | os.PathLike[str],
    base: BaseModel | None = None,
    config_dir: str | None = None,
) -> dict[str, Any]:
    """Train a model according to a recipe (conf/recipe) and return the report. Progress goes to stderr.

    Makes the folder `out` with `adapter` (PEFT), `model` (the merged model, for model.path=), `report.json`, and with
    train.checkpoints=epoch also `checkpoints/epoch-N`. train.method=full trains all weights and leaves no adapter.

    Args:
        recipe: See `read_recipe`.
        out: A folder that does not exist yet.
        base: The model to train. None: the recipe's preset or folder. If it is given, no merged model is left and
            nothing is evaluated.
        config_dir: The user's own folder of presets.

    Raises:
        UserError: `out` exists, a field of the recipe has an invalid value, or the extra `finetune` is not installed.
    """
    folder = Path(out).absolute()
    _check_can_start(folder)
    method = recipe["train"].get("method", METHODS[0])
    if method not in METHODS:
        raise UserError("train.method", method, f"must be one of {', '.join(METHODS)}")
    merge = base is None
    base = base or _base_model(recipe["model"], config_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        work = Path(temporary) / "made"
        report: dict[str, Any] = {"recipe": json.loads(json.dumps(recipe))}
        report["train"] = _train(recipe, base, work, ADAPTER if method == "lora" else MODEL)
        if method == "lora" and merge:
            materialize("merge", base.path, work / ADAPTER, work / MODEL)
        if recipe.get("evaluate") and merge:
            report["measured"] = evaluate(BaseModel(work / MODEL, base.template), recipe["evaluate"])
        (work / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        os.rename(work, folder)
    return report


def _check_can_start(folder: Path) -> None:
    """Raise UserError if the output folder exists, or if the extra `finetune` is not installed."""
    if folder.exists():
        raise UserError("to", folder, "is there already: name a new folder")
    missing = next((name for name in ("trl", "peft", "datasets") if find_spec(name) is None), None)
    if missing:
        remedy = f"needs {missing}, which is not installed: `scripts/setup.sh finetune` in a checkout, or pip install "
        raise UserError("recipe", None, f"{remedy}'safety-landscape[finetune]'")


def _base_model(name: str, config_dir: str | None) -> BaseModel:
    """Resolve a recipe's `model`: a preset, or a folder with a model."""
    path = expanded(name)
    overrides = [f"model.path={path}"] if path.is_dir() else [f"model={name}"]
    config = compose(overrides, config_dir).model
    return BaseModel(resolve_model(config).path, config.template)


def _train(recipe: Mapping[str, Any], base: BaseModel, work: Path, result: str) -> Any:
    """Train into work/`result`, move the checkpoints to work/checkpoints, and return what the worker reports."""
    out = work / result
    rows = encode_rows(training_rows(recipe["data"], base), base)
    report = train(base, rows, recipe["train"], out)
    (out / "report.json").unlink()
    shutil.rmtree(out / "trainer", ignore_errors=True)
    for epoch in sorted(out.glob("epoch-*")):
        (work / CHECKPOINTS).mkdir(exist_ok=True)
        os.rename(epoch, work / CHECKPOINTS / epoch.name)
    return report


def evaluate(model: BaseModel, options: Mapping[str, Any]) -> dict[str, Any]:
    """Measure a model on probe files, with the keyword judge, which reads what follows the thought of a response.

    Responses are greedy, in float32, under the chat template's own system prompt.

    Args:
        model: The model to measure.
        options: The recipe's `evaluate`: `harmful` and `benign`, names of probe files, and `max_tokens`.

    Returns:
        For "harmful" and "benign": `probes` (the file's name), `n` (number of probes), and the percentages `asr`
        (attack success), `refused`, and of those not refused `degenerate` and `unclear`. Percentages are of the
        responses with an answer, and None without any; if the model may think, `unfinished` is the number of others.
    """
    keyword, degenerate = judges.get("keyword"), judges.get("degenerate")
    measured: dict[str, Any] = {}
    for group in ("harmful", "benign"):
        rendered = render(model, probe_texts(options[group]), options["max_tokens"])
        read = Answers([rendered], rendered.thought)
        pairs = [
            (prompt.text, answer)
            for prompt, response in zip(rendered.prompts, generate_responses(model, rendered), strict=True)
            if (answer := read.of(rendered.id, prompt.id, response["text"])) is not None
        ]
        complied = [pair for pair in pairs if keyword.verdict(*pair) != "refused"]
        verdicts = Counter(degenerate.verdict(*pair) for pair in complied)
        counts = {"asr": len(complied), "refused": len(pairs) - len(complied)}
        counts |= {verdict: verdicts[verdict] for verdict in ("degenerate", "unclear")}
        measured[group] = {
            "probes": options[group],
            "n": len(rendered.prompts),
            **({"unfinished": len(rendered.prompts) - len(pairs)} if rendered.thought else {}),
            **{name: round(100 * count / len(pairs), 2) if pairs else None for name, count in counts.items()},
        }
    return measured


def report_lines(report: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Return (name, value) pairs to print: the contents of the folder, the training, and the measured percentages."""
    trained = report["train"]
    lines = [("model", f"{folder / MODEL} (run it: model.path={folder / MODEL})")]
    if (folder / ADAPTER).is_dir():
        lines.append(("adapter", str(folder / ADAPTER)))
    if (folder / CHECKPOINTS).is_dir():
        lines.append(("checkpoints", f"{folder / CHECKPOINTS} (walk them: grid.trajectory={folder})"))
    lines.append(("trained", f"{trained['rows']} rows, {trained['steps']} steps, {trained['seconds']:.0f} s"))
    for group, numbers in report.get("measured", {}).items():
        known = [name for name in ("asr", "refused", "degenerate", "unclear") if numbers.get(name) is not None]
        percentages = ", ".join(f"{name} {numbers[name]:g}%" for name in known) or "no answer"
        unfinished = numbers.get("unfinished", 0)
        remark = f" and {unfinished} unfinished thoughts" if unfinished else ""
        lines.append((group, f"{percentages} of {numbers['n'] - unfinished}{remark} ({numbers['probes']})"))
    return lines


# Finetunings of a sweep's own base model, kept in the user's cache.


def finetuned_folder(name: str, base: CheckpointInfo, template: str, presets: Presets) -> Path:
    """Return the folder with the result of a recipe on `base`. The first call trains.

    One process trains, others wait for it. `run_recipe` describes the folder, which contains no merged model.

    Args:
        name: A recipe and its overrides, such as `affirmative samples=50`.
        base: The model to train.
        template: The chat template it is prompted with.
        presets: Where recipes are looked up.
    """
    folder, recipe = cache_folder(name, base, template, presets)
    if folder.is_dir():
        return folder
    make_private(folder.parent)
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not folder.is_dir():
            for leftover in folder.parent.glob(f".{folder.name}-*"):  # left by a process that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            logger.info("finetuning %s by %s, once; kept in %s", base.path.name, name, folder)
            run_recipe({**recipe, "evaluate": None}, folder, BaseModel(base.path, template))
    return folder


def cache_folder(name: str, base: CheckpointInfo, template: str, presets: Presets) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a finetuning in the user's cache, and its recipe.

    The folder may not exist yet. Overrides are applied to the recipe, and its `model` is removed. See
    `finetuned_folder` for the arguments.
    """
    recipe_name, *overrides = name.split()
    recipe, _ = read_recipe(FinetuneConfig(recipe_name), overrides, presets.user_folder)
    recipe.pop("model", None)
    key = content_id([CACHE_VERSION, recipe, fingerprint(base), template])
    return cache_dir() / "finetuned" / f"{recipe_name}-{key}", recipe
