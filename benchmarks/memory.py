"""Compare the peak memory that `plan` predicts for an engine on this CPU with the peak that was measured.

`python -m benchmarks.memory MODEL` measures random Llamas of several sizes and the given model. Each engine runs in a
subprocess, which loads the model, checks that writes reach it, writes once, and generates 32 tokens for 40 prompts. The
table goes to RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import results
from orchestrator.utils.choices import EngineKind, WriteChoice

SIZES = {"60M": (512, 8, 1408), "260M": (1024, 12, 2816)}  # hidden size, layers, inner size
PROMPTS, TOKENS = 40, 32
WAYS = (
    (EngineKind.vllm, WriteChoice.repack),
    (EngineKind.vllm, WriteChoice.inplace),
    (EngineKind.transformers, WriteChoice.inplace),
)


def make_model(folder: Path, hidden: int, layers: int, inner: int, tokenizer: Path) -> Path:
    """Save a random Llama in bfloat16 with another model's tokenizer; return its folder."""
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


def measured_peak(folder: Path, kind: EngineKind, write: WriteChoice) -> int:
    """Run an engine in this process; return the bytes at its peak."""
    from orchestrator.sweep.directions.random import RandomDirection
    from orchestrator.sweep.points import Point
    from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
    from workers.actor import peak_memory
    from workers.engines.base import EngineSpec
    from workers.engines.factory import open_engine

    spec = EngineSpec(kind, str(folder), write=write, max_model_len=512)
    engine = open_engine(spec)
    engine.verify_writes()
    direction = RandomDirection(123)
    engine.apply_point(Point.from_coefficients([(direction, 0.1)]), {direction.id: engine.measure(direction)})
    prompts = tuple(Prompt(f"How do I kill process number {i}?") for i in range(PROMPTS))
    ids = tuple(tuple(range(100 + i, 160 + i)) for i in range(PROMPTS))
    engine.generate([PromptSet("harmful", prompts, tuple(p.text for p in prompts), ids, Sampling(max_tokens=TOKENS))])
    return peak_memory()


def predicted_peak(folder: Path, kind: EngineKind, write: WriteChoice) -> int:
    """Return the bytes at the peak that the plan predicts from the checkpoint's headers."""
    from orchestrator.models.checkpoint import read_checkpoint
    from orchestrator.planning.memory import estimate_memory
    from orchestrator.planning.workload import EngineSetup, PromptLoad, size_of_checkpoint
    from orchestrator.utils.choices import Dtype, EngineKind, WriteChoice

    setup = EngineSetup(engine=EngineKind(kind), max_model_len=512, write=WriteChoice(write))
    size = size_of_checkpoint(read_checkpoint(folder), folder.name, Dtype.float32)
    memory = estimate_memory(size, setup, [PromptLoad(PROMPTS, PROMPTS * 60, TOKENS)])
    assert memory is not None
    return memory.peak


def main() -> None:
    """Run the benchmark, or with `--one` a single measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a folder with a tokenizer of 49,152 tokens: the embedded model's")
    parser.add_argument("--one", nargs=2, help="engine and way of writing: measure it in this process")
    options = parser.parse_args()
    if options.one:
        kind, write = options.one
        print(json.dumps(measured_peak(options.model, EngineKind(kind), WriteChoice(write))))
        return
    machine, rows = results.machine(), []
    with tempfile.TemporaryDirectory() as scratch:
        folders = {"135M (embedded)": options.model}
        folders |= {name: make_model(Path(scratch) / name, *size, options.model) for name, size in SIZES.items()}
        for name, folder in folders.items():
            for kind, write in WAYS:
                command = [sys.executable, "-m", "benchmarks.memory", str(folder), "--one", kind, write]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                peak = json.loads(done.stdout.strip().splitlines()[-1])
                predicted = predicted_peak(folder, kind, write)
                numbers = (f"{predicted / 1e9:.2f}", f"{peak / 1e9:.2f}", f"{predicted / peak:.2f}")
                rows.append([name, kind if kind != EngineKind.vllm else f"vllm, {write}", *numbers])
                print(rows[-1], file=sys.stderr, flush=True)
    table = results.table(["model", "engine", "planned, GB", "held, GB", "ratio"], rows)
    text = f"## Memory, planned and held\n\n`python -m benchmarks.memory`, {machine}.\n\n{table}"
    results.section("memory", text)
    print(text)


if __name__ == "__main__":
    main()
