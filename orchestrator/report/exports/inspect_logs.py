"""Logs of Inspect, one for each point, which `inspect view` shows and `inspect_ai.log.read_eval_log` reads.

The logs have version 2 of Inspect's JSON format. Each response is a sample, each judge a scorer.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.report.exports.responses import ExportedPoint, ExportedResponse, exported_points
from orchestrator.store.sweep_folder import StoredSweep

_STOP_REASONS = {"stop": "stop", "length": "max_tokens"}  # every other finish reason is `unknown` to Inspect


def write(stored: StoredSweep, path: Path) -> None:
    """Write a log for each point of a sweep. Files are named as Inspect expects: by time, task and id."""
    path.mkdir()
    for point in exported_points(stored):
        log = _log(stored, point)
        created = log["eval"]["created"].replace(":", "-")
        text = json.dumps(log, ensure_ascii=False, indent=1)
        (path / f"{created}_{point.name}_{point.id}.json").write_text(text, encoding="utf-8")


def _log(stored: StoredSweep, point: ExportedPoint) -> dict[str, Any]:
    """Return the log of a point. Its task is the sweep at this point."""
    responses = point.responses
    began = min(response.started_at for response in responses)
    ended = max(response.started_at + datetime.timedelta(seconds=response.seconds) for response in responses)
    samples = [_sample(stored, response) for response in responses]
    model = stored.study.info.model
    node = point.nodes[0]
    place = {"line": node.line, "alpha": node.alpha, "beta": node.beta, "checkpoint": node.mark or None}
    sets = sorted({response.prompt_set.probe_set for response in responses})
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": point.id,
            "run_id": stored.sweep.id,
            "created": _time(began),
            "task": f"{stored.sweep.name} {point.name}",
            "task_id": point.id,
            "task_version": 0,
            "model": model,
            "model_generate_config": {"temperature": 0.0, "max_tokens": _max_tokens(responses)},
            "dataset": {
                "name": ", ".join(sets),
                "samples": len(samples),
                "sample_ids": [sample["id"] for sample in samples],
            },
            "config": {"epochs": 1},
            "packages": {},
            "metadata": {**place, "point": node.point.to_json(), "study_id": stored.study.id},
            "scorers": [{"name": name} for name in responses[0].classes],
        },
        "plan": {"name": "safety landscape", "steps": []},
        "results": {
            "total_samples": len(samples),
            "completed_samples": len(samples),
            "scores": [_score_summary(name, responses) for name in responses[0].classes],
        },
        "stats": {
            "started_at": _time(began),
            "completed_at": _time(ended),
            "model_usage": {model: _usage(responses)},
        },
        "samples": samples,
    }


def _sample(stored: StoredSweep, response: ExportedResponse) -> dict[str, Any]:
    prompt, prompt_set = response.prompt, response.prompt_set
    model = stored.study.info.model
    answer = {"role": "assistant", "content": response.text, "source": "generate", "model": model}
    stop_reason = _STOP_REASONS.get(response.finish_reason, "unknown")
    return {
        "id": f"{prompt_set.id}-{prompt.id}",
        "epoch": 1,
        "input": prompt.text,
        "choices": list(prompt.choices) or None,
        "target": prompt.target if prompt.choices and prompt.target else "",
        "messages": [{"role": "user", "content": prompt.text, "source": "input"}, answer],
        "output": {
            "model": model,
            "choices": [{"message": answer, "stop_reason": stop_reason}],
            "completion": response.text,
            "usage": _usage([response]),
        },
        "scores": {
            name: {"value": given, "answer": response.answer}
            for name, given in response.classes.items()
            if given is not None
        },
        "metadata": {
            "group": prompt.group,
            "category": prompt.category,
            "probe_set": prompt_set.probe_set,
            "system_prompt": prompt_set.system_prompt,
            "rendered": response.rendered,
            "finish_reason": response.finish_reason,
        },
    }


def _score_summary(name: str, responses: Sequence[ExportedResponse]) -> dict[str, Any]:
    """Return a judge's numbers at a point: the share of each class, and of all that are not refused, from 0 to 1."""
    given = [response.classes[name] for response in responses if response.classes[name] not in (None, "nonfinite")]
    shares = {
        label: sum(one == label for one in given) / len(given)
        for label in ("refused", "complied", "degenerate", "unclear")
        if given
    }
    if given:
        shares = {"attack_success_rate": 1.0 - shares["refused"], **shares}
    return {
        "name": name,
        "scorer": name,
        "scored_samples": len(given),
        "unscored_samples": len(responses) - len(given),
        "metrics": {metric: {"name": metric, "value": share} for metric, share in shares.items()},
    }


def _usage(responses: Iterable[ExportedResponse]) -> dict[str, int]:
    counts = [(response.n_prompt_tokens, response.n_tokens) for response in responses]
    read, written = sum(count[0] for count in counts), sum(count[1] for count in counts)
    return {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}


def _max_tokens(responses: Iterable[ExportedResponse]) -> int:
    return max(response.prompt_set.sampling.max_tokens for response in responses)


def _time(moment: datetime.datetime) -> str:
    """Return a time as Inspect writes it."""
    return moment.astimezone(datetime.UTC).isoformat(timespec="seconds")
