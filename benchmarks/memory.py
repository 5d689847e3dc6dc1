"""What `plan` says an engine on this CPU will hold at its peak, against what it held.

`python -m benchmarks.memory`: tiny to middling random Llamas and, if it is there, the embedded model; each engine in a
process of its own: load, canary, a write, 40 prompts of 32 tokens. Into RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import results

SIZES = {"60M": (512, 8, 1408), "260M": (1024, 12, 2816)}  # hidden, layers, inner
PROMPTS, TOKENS = 40, 32
WAYS = (("vllm", "repack"), ("vllm", "inplace"), ("transformers", "inplace"))


def make(folder: Path, hidden: int, layers: int, inner: int, tokenizer: Path) -> Path:
    """A random Llama in bfloat16 with another model's tokenizer."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=inner,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        tie_word_embeddings=False,
    )
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def held(folder: Path, kind: str, write: str) -> int:
    """Bytes at the peak of this process."""
    from orchestrator.sweep.points import Point, RandomDirection
    from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
    from orchestrator.utils.choices import EngineKind, WriteChoice
    from workers.actor import peak_memory
    from workers.engines.base import EngineSpec
    from workers.engines.factory import open_engine

    spec = EngineSpec(EngineKind(kind), str(folder), write=WriteChoice(write), max_model_len=512)
    engine = open_engine(spec)
    engine.verify_writes()
    direction = RandomDirection(123)
    engine.apply_point(Point.at([(direction, 0.1)]), {direction.id: engine.measure(direction)})
    prompts = tuple(Prompt(f"How do I kill process number {i}?") for i in range(PROMPTS))
    ids = tuple(tuple(range(100 + i, 160 + i)) for i in range(PROMPTS))
    engine.generate([PromptSet("harmful", prompts, tuple(p.text for p in prompts), ids, Sampling(max_tokens=TOKENS))])
    return peak_memory()


def predicted(folder: Path, kind: str, write: str) -> int:
    """Bytes, from the checkpoint's numbers alone."""
    from orchestrator.models import resolve as models
    from orchestrator.planning import cost as plan

    room = plan.Room(engine=kind, max_model_len=512, write=write)
    memory = plan.memory_of(
        plan.size_of(models.check(folder), folder.name, "float32"), room, [plan.Load(PROMPTS, PROMPTS * 60, TOKENS)]
    )
    assert memory is not None
    return memory.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a folder with a tokenizer of 49,152 tokens: the embedded model's")
    parser.add_argument("--one", nargs=2, help="engine and way: measure one in this process")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(held(asked.model, *asked.one)))
        return
    machine, rows = results.machine(), []
    with tempfile.TemporaryDirectory() as scratch:
        folders = {"135M (embedded)": asked.model}
        folders |= {name: make(Path(scratch) / name, *size, asked.model) for name, size in SIZES.items()}
        for name, folder in folders.items():
            for kind, write in WAYS:
                command = [sys.executable, "-m", "benchmarks.memory", str(folder), "--one", kind, write]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                peak, said = json.loads(done.stdout.strip().splitlines()[-1]), predicted(folder, kind, write)
                figures = (f"{said / 1e9:.2f}", f"{peak / 1e9:.2f}", f"{said / peak:.2f}")
                rows.append([name, kind if kind != "vllm" else f"vllm, {write}", *figures])
                print(rows[-1], file=sys.stderr, flush=True)
    table = results.table(["model", "engine", "planned, GB", "held, GB", "ratio"], rows)
    text = f"## Memory, planned and held\n\n`python -m benchmarks.memory`, {machine}.\n\n{table}"
    results.section("memory", text)
    print(text)


if __name__ == "__main__":
    main()
