"""Finetuning by TRL and PEFT: rows in, a LoRA adapter or a checkpoint out. And plain greedy answers.

`python -P -m workers.training.finetune OUT < request.json`:
{"base": folder, "train": {"rows", "recipe"}} leaves an adapter and report.json in OUT;
{"base": folder, "answer": {"prompts", "max_tokens", "batch_size"}} leaves answers.json.
Answers are in float32, training as the recipe says; on a CPU, seeded, the same rows give the same adapter on the same
machine and versions.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Advance(Protocol):
    def __call__(self, done: int, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Yields a function of (units done, note): a live bar with the time left on a terminal, else some lines."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total)
            yield lambda done, note="": bar.update(task, completed=done, description=f"{title} {note}".rstrip())
        return
    started, last = time.monotonic(), [0.0]

    def line(done: int, note: str = "") -> None:
        now = time.monotonic()
        if now - last[0] >= 15 or done == total:
            last[0] = now
            left = (now - started) / max(done, 1) * (total - done)
            print(f"{title} {done}/{total} {note} {left:.0f} s left", file=sys.stderr, flush=True)

    yield line


def _tokenizer(base_dir: str | Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_dir, local_files_only=True, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _model(base_dir: str | Path, dtype: str = "float32") -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base_dir, dtype=dtype, local_files_only=True, trust_remote_code=False)


def encode(tokenizer: Any, row: Mapping[str, Any], max_length: int) -> dict[str, list[int]]:
    """Token ids and labels of a prompt with its answer; only the answer is learnt.

    The prompt comes as the token ids by which the model is asked when it is measured. The end of turn follows the
    answer, and is learnt, unless the row says `complete: false` (an answer that was cut).
    """
    prompt = row["prompt"]
    answer = tokenizer(row["answer"], add_special_tokens=False)["input_ids"]
    if row["complete"]:
        answer = [*answer, tokenizer.eos_token_id]
    ids = [*prompt, *answer][:max_length]
    return {"input_ids": ids, "labels": [-100] * min(len(prompt), len(ids)) + ids[len(prompt) :]}


def finetune(
    base_dir: str | Path, rows: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any], out_dir: str | Path
) -> dict[str, Any]:
    """Trains on rows {"prompt": token ids, "answer": text, "complete": bool} and saves what came of it.

    recipe: method ('lora', an adapter; 'full', all weights), seed, dtype (of the frozen weights, whose adapter's are
    float32; of all in training), learning_rate, warmup, epochs, batch_size, max_length, checkpoints ('end', or 'epoch':
    a folder out_dir/epoch-N after each); for lora r, alpha, dropout, targets, strength (of the adapter that is saved).
    What comes of it is out_dir itself: a PEFT folder (bfloat16), or a checkpoint like the base's, dtypes and all.
    Returns what was done: rows, steps, seconds, losses, ...
    """
    import datasets
    import peft
    import torch
    import transformers
    import trl

    out = Path(out_dir)
    transformers.set_seed(recipe["seed"])
    datasets.disable_progress_bars()
    tokenizer = _tokenizer(base_dir)
    data = datasets.Dataset.from_list([encode(tokenizer, row, recipe["max_length"]) for row in rows])
    steps = -(-len(rows) // recipe["batch_size"]) * recipe["epochs"]
    losses: list[float] = []
    full = recipe.get("method", "lora") == "full"
    adapter = None
    if not full:
        adapter = peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=recipe["r"],
            lora_alpha=recipe["alpha"],
            lora_dropout=recipe["dropout"],
            target_modules=list(recipe.get("targets") or TARGETS),
        )

    def save(model: Any, folder: Path) -> None:
        if full:
            save_checkpoint(model, Path(base_dir), folder)
        else:
            save_adapter(model, folder, recipe.get("strength", 1.0))

    with progress("finetuning", steps) as advance:

        class Watch(transformers.TrainerCallback):
            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                if "loss" in (logs or {}):
                    losses.append(round(float(logs["loss"]), 4))
                    advance(state.global_step, f"loss {losses[-1]:.3f}")

            def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                if recipe["checkpoints"] == "epoch":
                    save(model, out / f"epoch-{round(state.epoch)}")

        trainer = trl.SFTTrainer(
            model=_model(base_dir, recipe["dtype"]),
            processing_class=tokenizer,
            train_dataset=data,
            callbacks=[Watch()],
            peft_config=adapter,
            args=trl.SFTConfig(
                output_dir=str(out / "trainer"),
                seed=recipe["seed"],
                data_seed=recipe["seed"],
                num_train_epochs=recipe["epochs"],
                per_device_train_batch_size=recipe["batch_size"],
                learning_rate=recipe["learning_rate"],
                warmup_steps=round(recipe["warmup"] * steps),
                lr_scheduler_type="cosine",
                max_length=recipe["max_length"],
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=not torch.cuda.is_available(),
                logging_steps=5,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        started = time.monotonic()
        trainer.train()
        advance(steps)
    save(trainer.model, out)
    versions = {module.__name__: module.__version__ for module in (torch, transformers, trl, peft)}
    return {
        "rows": len(rows),
        "tokens_learnt": sum(label != -100 for row in data for label in row["labels"]),
        "steps": trainer.state.global_step,
        "seconds": round(time.monotonic() - started, 1),
        "device": str(trainer.args.device),
        "losses": losses,
        "versions": versions,
    }


def save_adapter(model: Any, folder: Path, strength: float = 1.0) -> None:
    """A PEFT folder with its factors in bfloat16, to be applied with this strength (1: as trained). Its config is free
    of paths and of PEFT's defaults for other tasks."""
    import peft
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    factors = peft.get_peft_model_state_dict(model)
    save_file(
        {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in factors.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    lora = model.peft_config["default"]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": False,
        "r": lora.r,
        "lora_alpha": lora.lora_alpha * strength,
        "lora_dropout": lora.lora_dropout,
        "target_modules": sorted(lora.target_modules),
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def save_checkpoint(model: Any, base: Path, folder: Path) -> None:
    """The weights under the base's names and in its dtypes, beside copies of its configuration and tokenizer."""
    import torch
    from safetensors.torch import save_file

    from workers.weights.checkpoint import MappedCheckpoint

    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    save_file(
        {
            info.name: state[info.name].detach().to("cpu", getattr(torch, info.dtype)).contiguous()
            for info in MappedCheckpoint(base).tensors()
        },
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    for file in base.iterdir():
        if file.is_file() and not file.name.startswith(".") and ".safetensors" not in file.name:
            shutil.copyfile(file, folder / file.name)


def answer(
    base_dir: str | Path, prompts: Sequence[Sequence[int]], max_tokens: int, batch_size: int = 16
) -> list[dict[str, Any]]:
    """Greedy answers {"text", "complete"} to prompts given as token ids, in float32.

    `complete`: the model ended its turn within `max_tokens`.
    """
    import torch

    tokenizer, model = _tokenizer(base_dir), _model(base_dir)
    tokenizer.padding_side = "left"
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # little padding
    answers: list[dict[str, Any]] = [{}] * len(prompts)
    with progress("answering", len(prompts)) as advance, torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            inputs = tokenizer.pad({"input_ids": [prompts[i] for i in chosen]}, return_tensors="pt").to(model.device)
            made = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
            for i, ids in zip(chosen, made[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                complete = tokenizer.eos_token_id in ids
                kept = ids[: ids.index(tokenizer.eos_token_id)] if complete else ids
                answers[i] = {"text": tokenizer.decode(kept, skip_special_tokens=True), "complete": complete}
            advance(start + len(chosen))
    return answers


def main(out: str) -> None:
    """The process described at the top."""
    request = json.load(sys.stdin)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    if "train" in request:
        report = finetune(request["base"], request["train"]["rows"], request["train"]["recipe"], folder)
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    else:
        answers = answer(request["base"], **request["answer"])
        (folder / "answers.json").write_text(json.dumps(answers, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
