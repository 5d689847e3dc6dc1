"""Finetuning process: train a LoRA adapter or all weights on rows (TRL and PEFT), or generate greedy responses.

`python -P -m workers.training.finetune OUT < request.json`:

* {"base": folder, "train": {"rows", "recipe"}} writes an adapter or a checkpoint, and report.json, into OUT;
* {"base": folder, "answer": {"prompts", "max_tokens", "batch_size", "kept"}} writes answers.json.

Responses are generated in float32; the recipe decides the dtype of training. On a CPU the same rows and seed give the
same adapter on the same machine with the same versions.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workers.engines.decoding import left_out
from workers.training.progress import Advance, show_progress
from workers.training.saving import save_adapter, save_checkpoint

LORA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # default


def load_tokenizer(base_dir: str | Path) -> Any:
    """Load the tokenizer from a local folder. If it has no padding token, it uses the end-of-sequence token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        base_dir, local_files_only=True, trust_remote_code=False, mistral_format=False
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(base_dir: str | Path, dtype: str = "float32") -> Any:
    """Load the model from a local folder onto the CPU, in a dtype given by its torch name."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base_dir, dtype=dtype, local_files_only=True, trust_remote_code=False)


def encode(tokenizer: Any, row: Mapping[str, Any], max_length: int) -> dict[str, list[int]]:
    """Return the token ids and labels of a prompt with its answer. The labels of the prompt are -100 (not learned).

    If the answer is complete, the end-of-sequence token follows it and has a label too.

    Args:
        tokenizer: The model's tokenizer.
        row: "prompt" (the token ids with which the model is prompted in measurements), "answer" (text), "complete"
            (False if the answer was cut off).
        max_length: Maximum number of tokens; the end is cut off.
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
    """Train on rows and save the result.

    Args:
        base_dir: Folder of the model to start from.
        rows: Training samples of the form {"prompt": token ids, "answer": text, "complete": bool}.
        recipe: method ('lora' trains an adapter, 'full' all weights), seed, dtype (of the frozen weights of 'lora',
            whose adapter is float32; of all weights of 'full'), learning_rate, warmup (fraction of the steps), epochs,
            batch_size, max_length, checkpoints ('end', or 'epoch' to save out_dir/epoch-N after each epoch too). For
            'lora' also r, alpha, dropout, targets, strength (of the saved adapter).
        out_dir: Folder to write: a PEFT adapter in bfloat16, or a checkpoint with the base's names and dtypes.

    Returns:
        A report: rows, tokens_learnt (with labels, in one epoch), steps, seconds, device, losses, versions.
    """
    import datasets
    import peft
    import torch
    import transformers
    import trl

    out = Path(out_dir)
    transformers.set_seed(recipe["seed"])
    datasets.disable_progress_bars()
    tokenizer = load_tokenizer(base_dir)
    data = datasets.Dataset.from_list([encode(tokenizer, row, recipe["max_length"]) for row in rows])
    steps = -(-len(rows) // recipe["batch_size"]) * recipe["epochs"]
    is_full = recipe.get("method", "lora") == "full"
    losses: list[float] = []

    def save(model: Any, folder: Path) -> None:
        if is_full:
            save_checkpoint(model, Path(base_dir), folder)
        else:
            save_adapter(model, folder, recipe.get("strength", 1.0))

    def save_epoch(model: Any, epoch: int) -> None:
        if recipe["checkpoints"] == "epoch":
            save(model, out / f"epoch-{epoch}")

    with show_progress("finetuning", steps) as advance:
        trainer = trl.SFTTrainer(
            model=load_model(base_dir, recipe["dtype"]),
            processing_class=tokenizer,
            train_dataset=data,
            callbacks=[_callback(losses, advance, save_epoch)],
            peft_config=None if is_full else _lora_config(recipe),
            args=_training_config(recipe, steps, out / "trainer"),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        started = time.monotonic()
        trainer.train()
        advance(steps)
    save(trainer.model, out)
    return {
        "rows": len(rows),
        "tokens_learnt": sum(label != -100 for row in data for label in row["labels"]),
        "steps": trainer.state.global_step,
        "seconds": round(time.monotonic() - started, 1),
        "device": str(trainer.args.device),
        "losses": losses,
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, trl, peft)},
    }


def _lora_config(recipe: Mapping[str, Any]) -> Any:
    import peft

    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe["r"],
        lora_alpha=recipe["alpha"],
        lora_dropout=recipe["dropout"],
        target_modules=list(recipe.get("targets") or LORA_MODULES),
    )


def _training_config(recipe: Mapping[str, Any], steps: int, folder: Path) -> Any:
    import torch
    import trl

    return trl.SFTConfig(
        output_dir=str(folder),
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
    )


def _callback(losses: list[float], advance: Advance, save_epoch: Callable[[Any, int], None]) -> Any:
    """Return a trainer callback that collects losses, reports progress and saves after each epoch."""
    import transformers

    class Callback(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in (logs or {}):
                losses.append(round(float(logs["loss"]), 4))
                advance(state.global_step, f"loss {losses[-1]:.3f}")

        def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            save_epoch(model, round(state.epoch))

    return Callback()


def generate_answers(
    base_dir: str | Path,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    batch_size: int = 16,
    kept: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Generate greedy responses to prompts given as token ids, in float32. `kept`: see `Sampling.kept`.

    Returns:
        {"text", "complete"} per prompt; complete is True if the model ended its turn within `max_tokens`.
    """
    import torch

    tokenizer, model = load_tokenizer(base_dir), load_model(base_dir)
    tokenizer.padding_side = "left"
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # prompts of similar length need little padding
    answers: list[dict[str, Any]] = [{}] * len(prompts)
    hidden = left_out(tokenizer, kept)
    with show_progress("answering", len(prompts)) as advance, torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            inputs = tokenizer.pad({"input_ids": [prompts[i] for i in batch]}, return_tensors="pt").to(model.device)
            generated = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
            for i, ids in zip(batch, generated[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                complete = tokenizer.eos_token_id in ids
                tokens = ids[: ids.index(tokenizer.eos_token_id)] if complete else ids
                tokens = [token for token in tokens if token not in hidden]
                answers[i] = {"text": tokenizer.decode(tokens, skip_special_tokens=False), "complete": complete}
            advance(start + len(batch))
    return answers


def main(out: str) -> None:
    """Run the process that the module's docstring describes."""
    request = json.load(sys.stdin)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    if "train" in request:
        report = finetune(request["base"], request["train"]["rows"], request["train"]["recipe"], folder)
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    else:
        answers = generate_answers(request["base"], **request["answer"])
        (folder / "answers.json").write_text(json.dumps(answers, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
