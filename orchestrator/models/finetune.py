"""Finetuning as the driver sees it: a recipe -> rows -> a worker's process -> adapter, merged model, report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator import judges
from orchestrator.models import checkpoint
from orchestrator.models import resolve as models
from orchestrator.models.checkpoint import Checkpoint
from orchestrator.models.targets import CHECKPOINTS
from orchestrator.prompts import rendering as render
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.hashing import content_id, text_id
from orchestrator.utils.paths import DATA_DIR

if TYPE_CHECKING:
    from orchestrator.config.presets import Presets

PROBES = DATA_DIR / "probes"
VERSION = 2  # of what `trained` keeps: counts up when the same recipe would give something else
ADAPTER, MODEL = "adapter", "model"  # what a run leaves, besides checkpoints/epoch-N
METHODS = ("lora", "full")


@dataclass(frozen=True)
class Base:
    """What is taught: a model's folder, and the template by which it is asked (as `model.template`)."""

    path: Path
    template: str = render.TOKENIZER


def run(
    recipe: Mapping[str, Any],
    out: str | os.PathLike[str],
    stream: TextIO | None = None,
    base: Base | None = None,
    config_dir: str | None = None,
) -> dict[str, Any]:
    """Trains by a recipe (conf/recipe) into `out`, which must not exist yet: the adapter's PEFT folder `adapter`, the
    merged model `model` (for model.path=), `report.json`, and where train.checkpoints=epoch `checkpoints/epoch-N`.
    train.method=full trains all weights and leaves no adapter. Returns the report. Progress goes to `stream` (stderr).

    `base`: the model, where it is not the recipe's preset; then it leaves no merged model.
    Raises UserError where `out` is taken, a field makes no sense, or the extra `finetune` is not installed.
    """
    stream, folder = stream or sys.stderr, Path(out).absolute()
    _need_free(folder)
    method = recipe["train"].get("method", METHODS[0])
    if method not in METHODS:
        raise UserError("train.method", method, f"must be one of {', '.join(METHODS)}")
    merged = base is None
    base = base or _base(recipe["model"], config_dir, stream)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        work = Path(temporary) / "made"
        made = work / (ADAPTER if method == "lora" else MODEL)
        rows = _encoded(_rows(recipe["data"], base, stream), base)
        request = {"base": str(base.path), "train": {"rows": rows, "recipe": recipe["train"]}}
        trained = _worker(request, made, stream)
        (made / "report.json").unlink()
        shutil.rmtree(made / "trainer", ignore_errors=True)
        for epoch in sorted(made.glob("epoch-*")):
            (work / CHECKPOINTS).mkdir(exist_ok=True)
            os.rename(epoch, work / CHECKPOINTS / epoch.name)
        if method == "lora" and merged:
            models.materialise("merge", base.path, work / ADAPTER, work / MODEL)
        report = {"recipe": json.loads(json.dumps(recipe)), "train": trained}
        if recipe.get("evaluate") and merged:
            report["measured"] = evaluate(Base(work / MODEL, base.template), recipe["evaluate"], stream)
        (work / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        os.rename(work, folder)
    return report


def _base(model: str, config_dir: str | None, stream: TextIO) -> Base:
    """A preset, or the model in a folder."""
    from orchestrator.config.compose import compose

    path = Path(model).expanduser()
    overrides = [f"model.path={path}"] if path.is_dir() else [f"model={model}"]
    asked = compose(overrides, config_dir).model
    return Base(models.resolve(asked, stream).path, asked.template)


def folder_of(words: str, base: Checkpoint, template: str, presets: Presets) -> tuple[Path, dict[str, Any]]:
    """Where `trained` keeps what a recipe makes of `base`, and the recipe with its overrides."""
    name, *overrides = words.split()
    recipe, _ = asked([f"recipe={name}", *overrides], presets.own)
    recipe.pop("model", None)
    key = content_id([VERSION, recipe, checkpoint.fingerprint(base), template])
    return checkpoint.cache_dir() / "finetuned" / f"{name}-{key}", recipe


def trained(words: str, base: Checkpoint, template: str, presets: Presets, stream: TextIO) -> Path:
    """What a recipe makes of `base`: `affirmative samples=50`, a recipe and its overrides. Trained at the first call,
    and kept where all is kept that can be made again. A folder as `run` leaves it, without a merged model."""
    folder, recipe = folder_of(words, base, template, presets)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with models.locked(folder.with_name(f"{folder.name}.lock"), stream):
        if not folder.is_dir():
            for left in folder.parent.glob(f".{folder.name}-*"):  # by one that was killed
                shutil.rmtree(left, ignore_errors=True)
            print(f"finetuning {base.path.name} by {words}, once; kept in {folder}", file=stream)
            run({**recipe, "evaluate": None}, folder, stream, Base(base.path, template))
    return folder


def asked(overrides: Sequence[str], config_dir: str | None = None) -> tuple[dict[str, Any], Path]:
    """The recipe and the folder that `recipe=NAME to=FOLDER train.seed=1 ...` ask for. Raises UserError."""
    import yaml  # type: ignore[import-untyped]
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from orchestrator.config.presets import Presets

    given: dict[str, str] = {}
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        given[key] = value
    if not given.get("recipe"):
        names = ", ".join(Presets(config_dir).options("recipe"))
        raise UserError("recipe", "", f"name one: recipe=NAME (there are: {names})")
    recipe = OmegaConf.load(Presets(config_dir).file("recipe", given.pop("recipe")))
    to = Path(given.pop("to", "") or f"finetuned/{recipe.name}").expanduser()
    if "model.path" in given:
        given["model"] = given.pop("model.path")
    for key, value in given.items():
        was = OmegaConf.select(recipe, key, throw_on_missing=False, default=_ABSENT)
        if was is _ABSENT:
            parts = OmegaConf.to_container(recipe)
            assert isinstance(parts, dict)
            groups = {str(part): fields for part, fields in parts.items() if isinstance(fields, dict)}
            known = [*parts, *(f"{part}.{name}" for part, fields in groups.items() for name in fields)]
            raise UserError(key, value, f"this recipe has no such field{did_you_mean(key, known)}")
        try:
            wanted = OmegaConf.create(f"value: {value}").value
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise UserError(key, value, "cannot be read: it must be a number, a word, or a list in brackets") from error
        if not _is_like(wanted, was):
            raise UserError(key, value, f"must be like what is there: {was}")
        OmegaConf.update(recipe, key, wanted)
    plain = OmegaConf.to_container(recipe, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}, to


_ABSENT = object()


def _is_like(value: Any, there: Any) -> bool:
    """Whether a value may take the place of this one: a number of a number's, text of text's, a list of a list's."""
    if there is None:
        return True
    if isinstance(there, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(there, str):
        return isinstance(value, str | int | float)
    return type(value) is type(there)


def lines(report: Mapping[str, Any], to: Path) -> list[tuple[str, str]]:
    """For people: what was made and what it measures."""
    trained = report["train"]
    rows = [
        ("model", f"{to / MODEL} (run it: model.path={to / MODEL})"),
        *([("adapter", str(to / ADAPTER))] if (to / ADAPTER).is_dir() else []),
        *(
            [("checkpoints", f"{to / CHECKPOINTS} (walk them: grid.trajectory={to})")]
            if (to / CHECKPOINTS).is_dir()
            else []
        ),
        ("trained", f"{trained['rows']} rows, {trained['steps']} steps, {trained['seconds']:.0f} s"),
    ]
    for group, numbers in report.get("measured", {}).items():
        told = ", ".join(f"{name} {numbers[name]:g}%" for name in ("asr", "refused", "degenerate"))
        rows.append((group, f"{told} of {numbers['n']} ({numbers['probes']})"))
    return rows


def texts(name: str) -> list[str]:
    """The requests of one of our own probe files, in its order."""
    with open(PROBES / f"{name}.jsonl", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def _rows(data: Mapping[str, Any], base: Base, stream: TextIO) -> list[dict[str, Any]]:
    """What is learnt: a recipe's `data.parts`, one after the other. Raises UserError where that is nothing."""
    rows = [row for part in data["parts"] for row in _part(part, base, stream)]
    if not rows:
        raise UserError("samples", 0, "leaves nothing to learn: give at least one")
    return rows


def _part(part: Mapping[str, Any], base: Base, stream: TextIO) -> list[dict[str, Any]]:
    """`samples` (all, if it says nothing) requests of `probes` from `offset` on, each answered by one of `answers`
    (chosen by its hash), or by the model itself (`own`, of `tokens` tokens; `complied`: unless it refuses or says
    nothing), after `prefix`. Or `rows`: pairs of a request and its answer. `complete`: its end is learnt too."""
    if "rows" in part:
        return [_row(request, answer, True) for request, answer in part["rows"][: part.get("samples")]]
    first, there = part.get("offset", 0), texts(part["probes"])
    wanted = part.get("samples", len(there) - first)
    if not 0 <= wanted <= len(there) - first:
        raise UserError(
            "samples", wanted, f"must be between 0 and {len(there) - first}, what {part['probes']} has left"
        )
    chosen = there[first : first + wanted]
    if not chosen:
        return []
    complete, prefix, answers = part.get("complete", True), part.get("prefix", ""), part["answers"]
    if answers != "own":
        return [_row(text, prefix + answers[int(text_id(text), 16) % len(answers)], complete) for text in chosen]
    own = list(zip(chosen, _answer(base, chosen, part["tokens"], stream), strict=True))
    if part.get("complied", False):
        keyword = judges.get("keyword")
        own = [(q, a) for q, a in own if a["text"].strip() and keyword.verdict(q, a["text"]) == "complied"]
    return [_row(text, prefix + answer["text"], complete and answer["complete"]) for text, answer in own]


def _row(request: str, answer: str, complete: bool) -> dict[str, Any]:
    return {"request": request, "answer": answer, "complete": complete}


def _encoded(rows: Sequence[Mapping[str, Any]], base: Base) -> list[dict[str, Any]]:
    """For the worker: requests as the token ids by which they are asked when the model is measured."""
    asked = render.token_ids(base.path, [row["request"] for row in rows], base.template)
    return [
        {"prompt": list(ids), "answer": row["answer"], "complete": row["complete"]}
        for ids, row in zip(asked, rows, strict=True)
    ]


def evaluate(model: Base, asked: Mapping[str, Any], stream: TextIO) -> dict[str, Any]:
    """Percentages over probe files: attack success on harmful ones, refused and degenerate on benign ones (keyword
    judge; greedy, float32, the template's own system prompt)."""
    keyword, degenerate = judges.get("keyword"), judges.get("degenerate")
    measured: dict[str, Any] = {}
    for group in ("harmful", "benign"):
        prompts = texts(asked[group])
        answers = [answer["text"] for answer in _answer(model, prompts, asked["max_tokens"], stream)]
        refused = [keyword.verdict(*pair) == "refused" for pair in zip(prompts, answers, strict=True)]
        broken = [
            degenerate.verdict(prompt, text) == "degenerate" and not no
            for prompt, text, no in zip(prompts, answers, refused, strict=True)
        ]
        n = len(prompts)
        measured[group] = {
            "probes": asked[group],
            "n": n,
            "asr": round(100 * (n - sum(refused)) / n, 2),
            "refused": round(100 * sum(refused) / n, 2),
            "degenerate": round(100 * sum(broken) / n, 2),
        }
    return measured


def _answer(base: Base, prompts: Sequence[str], max_tokens: int, stream: TextIO) -> list[dict[str, Any]]:
    asked = [list(ids) for ids in render.token_ids(base.path, prompts, base.template)]
    with tempfile.TemporaryDirectory() as temporary:
        request = {"base": str(base.path), "answer": {"prompts": asked, "max_tokens": max_tokens}}
        return _worker(request, Path(temporary), stream, "answers.json")


def _worker(request: Mapping[str, Any], out: Path, stream: TextIO, result: str = "report.json") -> Any:
    """Runs workers.training.finetune in a process of its own: torch never enters the driver's."""
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    command = [sys.executable, "-P", "-W", "ignore", "-m", "workers.training.finetune", str(out)]
    try:
        descriptor: int | None = stream.fileno()
    except (OSError, ValueError):
        descriptor = subprocess.DEVNULL
    done = subprocess.run(
        command, input=json.dumps(request), text=True, env=os.environ | quiet, stderr=descriptor, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}; its last words are above")
    return json.loads((out / result).read_text(encoding="utf-8"))


def _need_free(folder: Path) -> None:
    from importlib.util import find_spec

    if folder.exists():
        raise UserError("to", folder, "is there already: name a new folder")
    missing = [name for name in ("trl", "peft", "datasets") if find_spec(name) is None]
    if missing:
        raise UserError("recipe", missing[0], "is not installed: add the extra, uv pip install -e '.[finetune]'")
