"""Measure the log-probabilities of the texts in benchmarks/data/degenerate under the embedded model.

    python -m scripts.measure_log_probability

The engine is the default one on the CPU. It scores as docs/log_probability.md defines: real responses after their own
prompts, written texts and ruins after a plausible request (prompts.json). It measures the texts of which the judge of
texts is uncertain, those for training (scripts/fit_log_probability.py) and for the test. Measurements that are stored
already are kept, among them those of the texts that trained and tested earlier versions.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from typing import Any

from benchmarks.degenerate import SPLIT
from orchestrator.config.compose import compose
from orchestrator.execution.resources import engine_spec
from orchestrator.judges._log_probability import needs_log_probability
from orchestrator.models.resolve import resolve_model
from orchestrator.prompts.rendering import token_ids
from orchestrator.sweep.continuations import Continuation, context_id
from orchestrator.utils.hashing import text_id
from scripts.fit_degenerate import DATA, rows
from scripts.fit_log_probability import uncertain_texts
from workers.engines.factory import open_engine

FILE = DATA / "log_probabilities.jsonl"
BATCH = 64


def texts() -> Iterator[tuple[str, str, str]]:
    """Yield (id, prompt, text) of the texts. The id of a text that is no response is its content hash."""
    prompts: dict[str, Any] = json.loads((DATA / "prompts.json").read_text(encoding="utf-8"))
    responses = rows(DATA / "responses.jsonl")
    written = rows(DATA / "written.jsonl")
    of_response = {row["id"]: row["prompt"] for row in responses}
    kinds = {row["text"]: row["kind"] for row in written}

    def prompt_of(name: str, text: str) -> str:
        if name in of_response:
            return str(of_response[name])
        request = prompts["kinds"].get(kinds.get(text))
        return str(request or random.Random(name).choice(prompts["ruins"]))

    for text, _ in uncertain_texts():
        yield text.id, prompt_of(text.id, text.text), text.text
    for row in responses:
        if row["split"] == SPLIT and needs_log_probability(row.get("response", "")):
            yield row["id"], row["prompt"], row["response"]
    for row in written + rows(DATA / "synthetic.jsonl"):
        if row["split"] == SPLIT and needs_log_probability(row["text"]):
            name = text_id(row["text"])
            yield name, prompt_of(name, row["text"]), row["text"]


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
