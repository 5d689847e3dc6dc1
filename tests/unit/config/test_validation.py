"""Invalid values are refused in one sentence, wherever they were set."""

from __future__ import annotations

import pytest

from orchestrator.config.compose import compose
from orchestrator.utils.errors import UserError


@pytest.mark.parametrize(
    ("overrides", "field", "remedy"),
    [
        (["grid.steps=0"], "grid.steps", "must be at least 1"),
        (["grid.steps=10001"], "grid.steps", "must be at most 10000"),
        (["engine.kv_cache_gib=inf"], "engine.kv_cache_gib", "must be at least 0.001"),
        (["gate.visage=101"], "gate.visage", "must be at most 100"),
        (["gate.confidence=1"], "gate.confidence", "between 0.5 and 1"),
        (["grid.range=[0.5,-0.5]"], "grid.range", "the first must be less than the second"),
        (["grid.range_y=[0,1]"], "grid.range_y", "a line has no second axis"),
        (["grid.towards=[a]"], "grid.towards", "does not go toward checkpoints"),
        (["grid=interpolate_1d"], "grid.towards", "at least one folder or preset"),
        (["grid=interpolate_2d", "grid.towards=[a]"], "grid.towards", "two folders or presets"),
        (["grid=interpolate_1d", "grid.towards=[a,a]"], "grid.towards", "names a twice"),
        (["judges=[keyword,keyword]"], "judges", "names keyword twice"),
        (["judge=degenerate"], "judge", "does not detect refusals"),
        (["cluster.part=0/4"], "cluster.part", "i-th of n parts"),
        (["cluster.dry_run=true"], "cluster.dry_run", "`plan`"),
        (["cluster=slurm", "cluster.slurm.time=1 h"], "cluster.slurm.time", "without spaces"),
        (["cluster=slurm", "cluster.slurm.options=[A100]"], "cluster.slurm.options", "--name=value"),
        (["cluster=slurm", "cluster.slurm.warning=40"], "cluster.slurm.warning", "must be at least 60"),
    ],
)
def test_an_invalid_value_is_refused(overrides: list[str], field: str, remedy: str) -> None:
    with pytest.raises(UserError) as error:
        compose(overrides)
    assert error.value.field == field
    assert remedy in error.value.remedy
