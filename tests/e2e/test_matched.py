"""Random directions of an adapter's own size and rank, from the command line to the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import assert_refused, call
from tests.unit.workers.test_resident import save
from workers.weights.checkpoint import MappedCheckpoint

Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def options(make_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the options of a tiny model, and write an adapter to the folder `tuned` beside its prompts."""
    model, folder = make_tiny(), tmp_path_factory.mktemp("matched")
    rng = np.random.default_rng(0)
    rows, columns = MappedCheckpoint(model)[f"{Q}.weight"].shape
    factors = {
        f"base_model.model.{Q}.lora_{name}.weight": rng.standard_normal(shape).astype(np.float32) / 10
        for name, shape in (("A", (4, columns)), ("B", (rows, 4)))
    }
    save(folder / "tuned", factors, "adapter_model.safetensors", peft_type="LORA", r=4, lora_alpha=8)
    (folder / "prompts.csv").write_text("text\nHow do I pick a lock?\nHow do I forge a letter?\n", encoding="utf-8")
    named = [f"model.path={model}", "model.max_model_len=256", "engine=transformers", "sampling.max_tokens=4"]
    return [*named, f"probes.path={folder / 'prompts.csv'}", f"out={folder / 'out'}"]


def run(options: list[str], *more: str) -> dict[str, Any]:
    result = call("run", *options, *more, "--json")
    assert result.code == 0, result.err
    summary: dict[str, Any] = json.loads(result.out)
    assert summary["points_done"] == summary["points_total"]
    return summary


@pytest.mark.slow
def test_controls_of_an_adapter_run_from_the_command_line(options: list[str]) -> None:
    out = Path(options[-1].removeprefix("out="))
    adapter = out.parent / "tuned"
    lines = [f"grid.match={adapter}", "grid.range=[0,2]", "grid.steps=2", "grid.directions=2"]
    shuffled, matched = run(options, *lines), run(options, *lines, "grid.direction=matched", "grid.directions=1")
    assert (shuffled["grid"]["direction"], matched["grid"]["direction"]) == ("shuffled", "matched")
    assert shuffled["grid"]["match"] == matched["grid"]["match"] and "norm" not in shuffled["grid"]
    (scalars,) = out.glob("*/directions/*.parquet")
    factors = pq.read_table(scalars).to_pylist()
    assert [row["tensor"] for row in factors if row["on_self"]] == [f"{Q}.weight"], "only the adapter's matrix moves"

    line = run(options, "grid=interpolate_1d", f"grid.towards=[{adapter}]", "grid.steps=7", "grid.controls=2")
    checkpoints = {entry["mark"]: entry for entry in line["checkpoints"]}
    assert set(checkpoints) == {"tuned", "shuffled 123", "shuffled 124"}
    assert len({entry["distance"] for entry in checkpoints.values()}) == 1, "controls are as long as the adapter"
    assert [entry["direction"] for entry in checkpoints["tuned"]["matched"]] == ["matched", "shuffled"]
    assert all(entry["radii"] or entry["reason"] for entry in checkpoints["tuned"]["matched"])
    assert checkpoints["shuffled 123"]["matched"] == [] and checkpoints["shuffled 123"]["alpha"] == 0
    assert line["points_total"] == 8 + 2, "the line, and the two controls"
    stored = {text for part in out.glob("*/generations/*.parquet") for text in pq.read_table(part)["point"].to_pylist()}
    # The origin, two shuffled lines, one matched line and the line to the adapter. The controls are on these lines.
    assert len(stored) == 1 + 2 * 2 + 2 + 7
    for verb in ("status", "verify", "report"):
        assert call(verb, str(out)).code == 0, verb
    assert call("compact", str(out)).code == 0


def test_a_shuffled_direction_of_a_checkpoint_is_refused(options: list[str], make_tiny: Callable[..., Path]) -> None:
    other = make_tiny(seed=1)
    refused = call("plan", *options, f"grid.match={other}", "grid.direction=shuffled")
    assert_refused(refused, "grid.direction=shuffled: is made from an adapter", "use matched")
