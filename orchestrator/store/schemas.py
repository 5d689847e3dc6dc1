"""Arrow schemas of the stored tables, and the columns that make up an observation."""

from __future__ import annotations

import pyarrow as pa

GENERATIONS = pa.schema(
    [
        ("study_id", pa.string()),
        ("point_id", pa.string()),
        ("point", pa.string()),
        ("prompt_set_id", pa.string()),
        ("prompt_id", pa.string()),
        ("group", pa.string()),
        ("response", pa.string()),
        ("finish_reason", pa.string()),
        ("n_tokens", pa.int32()),
        ("n_prompt_tokens", pa.int32()),
        ("scores", pa.list_(pa.float32())),
        ("engine_id", pa.string()),
        ("actor", pa.string()),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("seconds", pa.float64()),
    ]
)

GENERATIONS_SCHEMA = "generations/2"
"""Version 2 has the finish reason `nonfinite`. Rows of version 1 were not checked for it, and are read as they are."""

JUDGEMENTS = pa.schema(
    [
        ("judge_id", pa.string()),
        ("point_id", pa.string()),
        ("prompt_set_id", pa.string()),
        ("prompt_id", pa.string()),
        ("response_id", pa.string()),
        ("verdict", pa.string()),
        ("score", pa.float64()),
    ]
)

LOG_PROBABILITIES = pa.schema(
    [
        ("context_id", pa.string()),
        ("prompt_id", pa.string()),
        ("response_id", pa.string()),
        ("n_tokens", pa.int32()),
        ("mean", pa.float64()),
        ("engine_id", pa.string()),
    ]
)

PROMPTS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("group", pa.string()),
        ("category", pa.string()),
        ("pair_id", pa.string()),
        ("text", pa.string()),
        ("rendered", pa.string()),
        ("target", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("system_prompt", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
    ]
)

RESPONSE_KEY = ["point_id", "prompt_set_id", "prompt_id"]
"""The columns that name one response, in generations and in judgements."""

OBSERVED = {
    "generations": ("prompt_id", "response", "finish_reason", "n_tokens", "scores"),
    "judgements": ("prompt_id", "response_id", "verdict", "score"),
}
"""Columns that define a task's result. Actor and timestamps are excluded, so that running a task again yields the same
hash. The hash is in the part's metadata, survives merging, and is what judgements refer to."""
