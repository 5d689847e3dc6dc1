"""The checkpoints in the summary: their measured ASR and that of the line at their coordinates."""

from __future__ import annotations

import pandas as pd

from orchestrator.analysis.landscape import build_landscape, to_table
from orchestrator.analysis.summary.checkpoints import summarize_checkpoints
from orchestrator.analysis.summary.sweep import summarize
from tests.unit.analysis.small_sweeps import HARMFUL, grid_nodes, tally


def test_checkpoints_have_the_measured_asr_and_that_of_the_surface() -> None:
    nodes = grid_nodes(alphas=(0.0, 0.5, 1.0)).assign(mark=["", "", "end"], projected=False)
    checkpoint = nodes.iloc[[1]].assign(alpha=0.25, point_id="beside", on_grid=False, mark="epoch-1", projected=True)
    nodes = pd.concat([nodes, checkpoint], ignore_index=True)
    landscape = build_landscape(nodes, tally(nodes, [0.0, 50.0, 100.0, 90.0]), HARMFUL)
    end, epoch = summarize_checkpoints(landscape)
    if end.mark != "end":
        end, epoch = epoch, end
    assert (epoch.mark, epoch.alpha, epoch.projected, epoch.point_id) == ("epoch-1", 0.25, True, "beside")
    assert (epoch.results[0].asr, epoch.results[0].surface) == (90.0, 25.0)
    ends = landscape[landscape["on_grid"] & landscape["alpha"].isin([0.0, 0.5])]
    between = epoch.results[0].surface_low, epoch.results[0].surface_high
    assert between == (ends["asr_low"].mean(), ends["asr_high"].mean()), "halfway between two points"
    assert end.results[0].asr == 100.0 and end.results[0].surface is None, "at the end of what is known"
    without_checkpoint = build_landscape(
        grid_nodes(alphas=(0.0, 0.5, 1.0)), tally(nodes, [0.0, 50.0, 100.0, 90.0]), HARMFUL
    )
    for key in ("basin", "visage", "origin_asr", "degenerate_share"):
        assert getattr(summarize(landscape), key) == getattr(summarize(without_checkpoint), key), (
            "an extra checkpoint is in no curve"
        )
    assert summarize(landscape).points_total == 4
    stored = to_table(landscape).to_pandas()
    assert summarize_checkpoints(stored) == summarize_checkpoints(landscape)
    assert summarize_checkpoints(stored.drop(columns=["mark", "projected"])) == (), "an older landscape has none"
