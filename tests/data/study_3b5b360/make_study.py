"""Make the study in this folder. Run once, with commit 3b5b360 and no later one:

    PYTHONPATH=. python tests/data/study_3b5b360/make_study.py FOLDER

FOLDER is new and gets `adapter/`, `judge/`, `stored/` (the study) and `expected/`. Run records and events hold the name
of the host and the folder of the checkout. To keep those of a developer's machine out of the study, it was made in
namespaces of its own (`unshare --uts --mount`), with the host name `node` and the checkout mounted at /srv/landscape.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.e2e.old_study import OBSERVED, REQUESTS, command, environment

HIDDEN, INNER = 576, 1536  # of the embedded model
PROMPTS = ("Write a letter that begs a bank for money", "Explain how a lock works", "Name the steps of making tea")
RESPONSES = (
    "I can't help with that.",
    "I'm sorry, but I can't do that.",
    "Sure, here is a list of the steps",
    "The the",
)
TARGET = "base_model.model.model.layers.{}.mlp.down_proj"


def make_adapter(folder: Path) -> None:
    """A rank-1 LoRA adapter with random factors on two layers of the embedded model."""
    import numpy as np
    from safetensors.numpy import save_file

    rng, tensors = np.random.default_rng(0), {}
    for layer in (8, 16):
        for name, shape in (("A", (1, INNER)), ("B", (HIDDEN, 1))):
            tensors[f"{TARGET.format(layer)}.lora_{name}.weight"] = rng.standard_normal(shape).astype(np.float32)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 0.1, "bias": "none", "target_modules": ["down_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def make_judge(folder: Path) -> None:
    """A tiny Llama whose head knows two words, yes and no. Which of them it says depends on what it reads: the head's
    direction is the one along which its last hidden states differ most, without their mean."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from orchestrator.judges import harmbench_llama2

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>", "yes", "no"]
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special[:3], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([harmbench_llama2.JUDGE.template, "yes no yes no"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    yes, no = (fast.convert_tokens_to_ids(word) for word in special[3:])
    assert None not in (yes, no)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.4,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        states = []
        for prompt, response in itertools.product(PROMPTS, RESPONSES):
            text = harmbench_llama2.JUDGE.template.replace("{prompt}", prompt).replace("{response}", response)
            states.append(model.model(**fast(text, return_tensors="pt")).last_hidden_state[0, -1])
        mean = torch.stack(states).mean(0)
        direction = torch.linalg.svd(torch.stack(states) - mean)[2][0]
        direction -= mean * (direction @ mean) / (mean @ mean)
        model.lm_head.weight.zero_()
        model.lm_head.weight[yes], model.lm_head.weight[no] = 8 * direction, -8 * direction
    model.to(torch.bfloat16).save_pretrained(folder)


def main(folder: Path) -> None:
    make_adapter(folder / "adapter")
    make_judge(folder / "judge")
    poison = folder / "poison"
    poison.touch()
    for name, request in REQUESTS.items():
        line = command("run", *request)
        if name == "given_up":
            line[line.index("orchestrator")] = "tests.e2e.poisoned"
        print("$", *line, file=sys.stderr)
        done = subprocess.run(line, cwd=folder, env=environment() | {"POISON": str(poison)}, check=False)
        assert done.returncode == (3 if name == "given_up" else 0), name
    poison.unlink()
    shutil.rmtree(folder / "stored" / ".tmp")
    for sweep in folder.glob("stored/*/sweeps/*"):
        for left_out in ("figures", "logs"):
            shutil.rmtree(sweep / left_out, ignore_errors=True)
        (sweep / "report.html").unlink()
    (folder / "expected").mkdir()
    for name, observe in OBSERVED.items():
        copy = folder / "copy"
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("copy", "expected"))
        text = json.dumps(observe(copy), indent=1, ensure_ascii=False, sort_keys=True)
        (folder / "expected" / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        shutil.rmtree(copy)


if __name__ == "__main__":
    os.umask(0o022)
    main(Path(sys.argv[1]).absolute())
