"""Run the stages and print a table for benchmarks/RESULTS.md: python -m scripts.gpu_check --stages 1,2,3."""

from __future__ import annotations

import argparse
import os
import sys


def main() -> int:
    """Run the command line. Returns the exit status: 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", default="1,2,3", help="1: kernel, without vLLM; 2: engine; 3: a small sweep")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses at small sizes")
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("this machine has no CUDA GPU that torch can use: rehearse with --device cpu", file=sys.stderr)
        return 2
    from scripts.gpu_check import kernel

    device = torch.device(options.device)
    rows: list[tuple[str, str, str]] = []
    wrong: list[str] = []
    for stage in options.stages.split(","):
        if stage == "1":
            of_stage = kernel.run(device)
        else:
            from scripts.gpu_check import engine

            of_stage = engine.run(device) if stage == "2" else engine.run_sweep(device)
        rows += [(stage, *row) for row in of_stage[0]]
        wrong += of_stage[1]
        print(f"stage {stage}: {len(of_stage[1])} failures", *of_stage[1][:20], sep="\n  ", flush=True)
    card = kernel.card_name(device)
    print(f"\n## GPU: {kernel.versions(device)}\n\n`scripts/gpu_check.sh`\n")
    print("| card | stage | check | result |\n| --- | --- | --- | --- |")
    print("\n".join(f"| {card} | {' | '.join(row)} |" for row in rows))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
