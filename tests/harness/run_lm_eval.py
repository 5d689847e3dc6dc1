"""Score local questions with lm-evaluation-harness. Runs in an environment of its own and imports nothing of ours.

    python run_lm_eval.py MODEL_FOLDER QUESTIONS_FOLDER SHOTS TURNS...   -> JSON on stdout

The tasks are the harness's own task MMLU (its default template), read from its package, with the local files in place
of the data set. TURNS are plain, chat and multiturn, as in `probes.turns`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import lm_eval
import yaml  # type: ignore[import-untyped]

FLAGS = {"plain": (False, False), "chat": (True, False), "multiturn": (True, True)}
"""Turns -> (apply_chat_template, fewshot_as_multiturn)."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def make_tasks(questions: Path, folder: Path) -> list[dict[str, Any]]:
    """Write one file for each subject and split; return the tasks that read them."""
    template = Path(lm_eval.__file__).parent / "tasks" / "mmlu" / "default" / "_default_template_yaml"
    common = yaml.safe_load(template.read_text(encoding="utf-8"))
    splits = {split: read_rows(questions / f"{split}.jsonl") for split in ("dev", "test")}
    tasks = []
    for subject in dict.fromkeys(row["subject"] for row in splits["test"]):
        files = {}
        for split, rows in splits.items():
            files[split] = str(folder / f"{subject}_{split}.jsonl")
            of_subject = [json.dumps(row) + "\n" for row in rows if row["subject"] == subject]
            Path(files[split]).write_text("".join(of_subject), encoding="utf-8")
        about = " ".join(subject.split("_"))  # as in the harness's tasks/mmlu/_generate_configs.py
        description = f"The following are multiple choice questions (with answers) about {about}.\n\n"
        own_fields = {"task": f"local_{subject}", "description": description}
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": files}}
        tasks.append(common | own_fields | data)
    return tasks


def score(model: Any, tasks: list[dict[str, Any]], shots: int, turns: str) -> list[dict[str, Any]]:
    """Return the context, the letters' log-probabilities and the predicted letter of each question."""
    chat, multiturn = FLAGS[turns]
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=[dict(task) for task in tasks],
        num_fewshot=shots,
        apply_chat_template=chat,
        fewshot_as_multiturn=multiturn,
        log_samples=True,
        bootstrap_iters=0,
    )
    scored = []
    for task in tasks:
        for sample in sorted(results["samples"][task["task"]], key=lambda sample: sample["doc_id"]):
            log_probabilities = [value for value, _ in sample["filtered_resps"]]
            predicted = "ABCD"[log_probabilities.index(max(log_probabilities))]
            assert sample["acc"] == float(predicted == "ABCD"[sample["doc"]["answer"]])
            context, continuations = sample["arguments"][0][0], [argument[1] for argument in sample["arguments"]]
            scored.append(
                {
                    "question": sample["doc"]["question"],
                    "context": context,
                    "continuations": continuations,
                    "log_probabilities": log_probabilities,
                    "predicted": predicted,
                }
            )
    return scored


def main() -> None:
    from importlib.metadata import version

    from lm_eval.models.huggingface import HFLM

    model_folder, questions, shots, *turns = sys.argv[1:]
    model = HFLM(pretrained=model_folder, dtype="float32", device="cpu", batch_size=1)
    with tempfile.TemporaryDirectory() as folder:
        tasks = make_tasks(Path(questions), Path(folder))
        scored = {name: score(model, tasks, int(shots), name) for name in turns}
    versions = {name: version(name) for name in ("lm_eval", "torch", "transformers")}
    json.dump({"versions": versions, "shots": int(shots), "turns": scored}, sys.stdout, ensure_ascii=False, indent=1)


if __name__ == "__main__":
    main()
