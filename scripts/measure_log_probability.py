"""Measure the log-probabilities of the texts in benchmarks/data/degenerate under the embedded model.

    python -m scripts.measure_log_probability

The engine is the default one on the CPU. It scores as docs/log_probability.md defines: real responses after their own
prompts, written texts and ruins after a plausible request (prompts.json). Measurements that are stored already are
kept, among them those of responses whose text is withheld. Of the ruins that are made for training, the weights in use
were fitted to the 379 that are stored; this program measures the others too.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from typing import Any

from orchestrator.config.compose import compose
from orchestrator.execution.resources import engine_spec
from orchestrator.models.resolve import resolve_model
from orchestrator.prompts.rendering import token_ids
from orchestrator.sweep.continuations import Continuation, context_id
from orchestrator.utils.hashing import text_id
from scripts.fit_degenerate import DATA, ROOT, rows, training_rows
from workers.engines.factory import open_engine

FILE = DATA / "log_probabilities.jsonl"
BATCH = 64


def texts() -> Iterator[tuple[str, str, str]]:
    """Yield (id, prompt, text) of all texts. The id of a text that is no response is its content hash."""
    for row in rows(DATA / "responses.jsonl"):
        if "response" in row:
            yield row["id"], row["prompt"], row["response"]
    for i, row in enumerate(rows(ROOT / "tests" / "data" / "labelled_responses.jsonl")):
        yield f"old{i:03d}", row["prompt"], row["response"]
    prompts: dict[str, Any] = json.loads((DATA / "prompts.json").read_text(encoding="utf-8"))
    for row in rows(DATA / "written.jsonl"):
        yield text_id(row["text"]), prompts["kinds"][row["kind"]], row["text"]
    rng = random.Random("prompts")
    for row in training_rows():
        if row["validates"] and row["label"] == "degenerate" and "id" not in row:
            yield text_id(row["text"]), rng.choice(prompts["ruins"]), row["text"]
    for row in rows(DATA / "synthetic.jsonl"):
        yield text_id(row["text"]), rng.choice(prompts["ruins"]), row["text"]


def main() -> None:
    """Measure what is missing and add it to the file."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    stored = {row["id"] for row in rows(FILE)} if FILE.exists() else set()
    missing = [text for text in texts() if text[0] not in stored]
    config = compose([])
    model = resolve_model(config.model)
    prompts = sorted({prompt for _, prompt, _ in missing})
    ids = dict(zip(prompts, token_ids(model.path, prompts), strict=True))
    engine = open_engine(engine_spec(config, model, "cpu"))
    with FILE.open("a", encoding="utf-8") as out:
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            continuations = [Continuation(context_id(ids[p]), name, ids[p], text) for name, p, text in batch]
            for (name, _, _), measured in zip(batch, engine.log_probabilities(continuations), strict=True):
                mean = None if measured.mean is None else round(measured.mean, 4)
                out.write(json.dumps({"id": name, "mean": mean, "n_tokens": measured.n_tokens}) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
