"""The tables of docs/gpus.md are those that the functions of `plan` make today."""

from __future__ import annotations

import pytest

from orchestrator.planning.gpus import GPUS
from scripts import gpu_table


def test_the_tables_of_the_page_are_current() -> None:
    page = gpu_table.PAGE.read_text(encoding="utf-8")
    assert gpu_table.filled(page) == page, "run python -m scripts.gpu_table"


def test_a_page_without_a_marker_is_refused() -> None:
    with pytest.raises(ValueError, match="must occur once"):
        gpu_table.filled("no table")


def test_no_row_is_faster_than_its_cards_can_read_the_weights() -> None:
    assert len(gpu_table.groups()) == len(gpu_table.MODELS) * len(gpu_table.DOLLARS)
    for model, gpu, group in gpu_table.groups():
        seconds = gpu_table.planned(model, gpu, 1, group, group).seconds
        assert seconds is not None and model.linear > 0.85 * (model.weights or 0)
        assert seconds.decode >= 512 * model.linear / group / GPUS[gpu].bandwidth
        assert seconds.prefill >= 80 * 60 * model.linear / (GPUS[gpu].flops16 * group)  # two operations, two bytes


def test_the_paper_s_plane_takes_mistral_less_than_five_minutes_on_eight_h100() -> None:
    llama2, mistral = gpu_table.PAPER_MODELS
    assert gpu_table.plane_seconds(mistral, "h100", 8) <= gpu_table.GOAL_SECONDS
    fewest = [n for n in range(1, 20) if gpu_table.plane_seconds(llama2, "h100", n) <= gpu_table.GOAL_SECONDS]
    assert (
        f"| LLaMA2-7B | H100 | 6.40 | reading keys and values | 359 | 54 | 6.9 | {fewest[0]} |"
        in gpu_table.goal_table()
    )
