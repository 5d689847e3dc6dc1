"""Build the training rows of a recipe's `data`: requests of probe files with the responses to learn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator import judges
from orchestrator.models.finetune_worker import BaseModel, generate_responses, render
from orchestrator.prompts.rendering import token_ids
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import text_id
from orchestrator.utils.paths import DATA_DIR


def training_rows(data: Mapping[str, Any], base: BaseModel) -> list[dict[str, Any]]:
    """Return the rows {"request", "answer", "complete"} of all of a recipe's `data.parts`, in order.

    If `complete` is true, the model also learns to end its turn after the answer.

    Raises:
        UserError: (samples) There are no rows, or more samples are requested than a probe file has.
    """
    rows = [row for part in data["parts"] for row in _part_rows(part, base)]
    if not rows:
        raise UserError("samples", 0, "leaves nothing to learn: give at least one")
    return rows


def encode_rows(rows: Sequence[Mapping[str, Any]], base: BaseModel) -> list[dict[str, Any]]:
    """Replace each row's `request` by `prompt`: its token ids, rendered as in a measurement of the model."""
    prompts = token_ids(base.path, [row["request"] for row in rows], base.template)
    return [
        {"prompt": list(ids), "answer": row["answer"], "complete": row["complete"]}
        for ids, row in zip(prompts, rows, strict=True)
    ]


def probe_texts(name: str) -> list[str]:
    """Return the requests of one of the project's own probe files, in its order."""
    with open(DATA_DIR / "probes" / f"{name}.jsonl", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def _part_rows(part: Mapping[str, Any], base: BaseModel) -> list[dict[str, Any]]:
    """Return the rows of one part of a recipe.

    A part has either `rows`, pairs of a request and its answer, or `probes`, the name of a probe file. From a probe
    file, `samples` requests (default: all) are taken, starting at `offset`. `answers` is a list, from which the hash of
    a request chooses its answer, or "own": the model's own response of up to `tokens` tokens. With `complied`, only
    requests whose own response complies are kept. `prefix` is put before every answer. If `complete` (default: true),
    the end of the turn is learned too.
    """
    if "rows" in part:
        return [_row(request, answer, True) for request, answer in part["rows"][: part.get("samples")]]
    first, texts = part.get("offset", 0), probe_texts(part["probes"])
    available = len(texts) - first
    samples = part.get("samples", available)
    if not 0 <= samples <= available:
        remedy = f"must be between 0 and {available}, what {part['probes']} has left"
        raise UserError("samples", samples, remedy)
    requests = texts[first : first + samples]
    if not requests:
        return []
    complete, prefix, answers = part.get("complete", True), part.get("prefix", ""), part["answers"]
    if answers != "own":
        return [_row(text, prefix + answers[int(text_id(text), 16) % len(answers)], complete) for text in requests]
    responses = list(zip(requests, generate_responses(base, render(base, requests, part["tokens"])), strict=True))
    if part.get("complied", False):
        keyword = judges.get("keyword")
        responses = [
            (request, response)
            for request, response in responses
            if response["text"].strip() and keyword.verdict(request, response["text"]) == "complied"
        ]
    return [_row(text, prefix + response["text"], complete and response["complete"]) for text, response in responses]


def _row(request: str, answer: str, complete: bool) -> dict[str, Any]:
    return {"request": request, "answer": answer, "complete": complete}
