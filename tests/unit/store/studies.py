"""Write invented responses and verdicts to a study, for the tests of the store."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.store.schemas import GENERATIONS, JUDGEMENTS
from orchestrator.store.study import Study, StudyInfo

INFO = StudyInfo("tiny", "fingerprint", "float32", 1, "made up")
ENGINE = {"engine": "dummy", "version": 1}


def rows(
    study: Study, point: str, set_id: str = "set", n: int = 3, response: str = "no", actor: str = "a"
) -> list[dict[str, Any]]:
    return [
        {
            "study_id": study.id,
            "point_id": point,
            "point": "[]",
            "prompt_set_id": set_id,
            "prompt_id": f"prompt {i}",
            "group": "harmful",
            "response": f"{response} {i}",
            "finish_reason": "stop",
            "n_tokens": 2,
            "n_prompt_tokens": 7,
            "scores": [0.5, -1.0] if i % 2 else None,
            "engine_id": "e",
            "actor": actor,
            "started_at": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
            "seconds": 1.5,
        }
        for i in range(n)
    ]


def generations(study: Study, *points: str, **fields: Any) -> pa.Table:
    return pa.Table.from_pylist([row for point in points for row in rows(study, point, **fields)], schema=GENERATIONS)


def write_part(study: Study, name: str, *points: str, **fields: Any) -> Path:
    study.generations.write(name, generations(study, *(points or (name,)), **fields), ENGINE)
    return study.root / "generations" / f"{name}.parquet"


def all_rows(study: Study) -> list[dict[str, Any]]:
    return [row for _, table in study.generations.rows(study.generations.stored()) for row in table.to_pylist()]


def reopen(study: Study) -> Study:
    """Open the same study again, in the mode that never moves damaged files."""
    return Study.open(study.root)


def judge(study: Study, points: dict[str, str], verdict: str = "refused") -> None:
    """Store a verdict on every response of these points.

    Args:
        study: Study to write to.
        points: Point id -> hash of the responses that were judged.
        verdict: The verdict on all of them.
    """
    table = pa.Table.from_pylist(
        [
            {
                "judge_id": "j",
                "point_id": row["point_id"],
                "prompt_set_id": "set",
                "prompt_id": row["prompt_id"],
                "response_id": "r",
                "verdict": verdict,
                "score": None,
            }
            for point in points
            for row in rows(study, point)
        ],
        schema=JUDGEMENTS,
    )
    study.judgements("j").write(table, {(point, "set"): task_hash for point, task_hash in points.items()})
