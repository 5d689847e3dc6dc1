"""Mistakes in the YAML files of `--config-dir` are reported in one sentence that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.config.schema import SystemPromptConfig
from orchestrator.models.recipes import read_recipe
from orchestrator.utils.errors import UserError
from tests.unit.utils.test_parsing import ALIASES

SLIPS = {
    "model=a": ("model/a.yaml", b"model:\n  name: x\n   path: y\n"),
    "model=b": ("model/b.yaml", b"name: x\xff\n"),
    "system_prompt=d": ("system_prompt/d.yaml", b'name: s\ntext: "a\x00b"\n'),
    "experiment=e": ("experiment/e.yaml", b"# @package _global_\ndefaults:\n  - x: [\n"),
    "model=c": ("model/c.yaml", b"# a\n\n# @package _global_ # why\nmodel:\n  name: x\n"),
    "model=f": ("model/f.yaml", ALIASES.encode()),
    "probes=g": ("probes/g.yaml", b"- a\n"),
    "model=h": ("model/h.yaml", b"# @package _global_\nmodel:\n  name: x\n  revision: 12:00:00\n"),
}


@pytest.mark.parametrize("override", SLIPS)
def test_a_slip_names_its_file(tmp_path: Path, override: str) -> None:
    name, content = SLIPS[override]
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as error:
        compose([override], str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_preset_that_an_experiment_chooses_is_checked_too(tmp_path: Path) -> None:
    for folder, content in (
        ("experiment", "# @package _global_\ndefaults:\n  - override /model: m\n"),
        ("model", ALIASES),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder[0]}.yaml").write_text(content)
    with pytest.raises(UserError, match=r"model/m.yaml"):
        compose(["experiment=e"], str(tmp_path))


WRONG_VALUES = {
    "probes=a": ("probes/a.yaml", "limit: many\n", "probes.limit=many: give a whole number, or null"),
    "probes=b": (
        "probes/b.yaml",
        "group: Harm\n",
        "probes.group=Harm: must be one of harmful, benign, jailbreak, capa",
    ),
    "probes=c": ("probes/c.yaml", "column: [a]\n", "probes.column=['a']: give a text"),
    "probes=d": ("probes/d.yaml", "path: a\nlimti: 3\n", "probes.limti=3: there is no such option, did you mean 'prob"),
    "model=e": (
        "model/e.yaml",
        "# @package _global_\nengine:\n  threads: x\n",
        "engine.threads=x: give a whole number",
    ),
    "cluster=f": ("cluster/f.yaml", "slurm:\n  nodes: x\n", "cluster.slurm.nodes=x: give a whole number"),
    "experiment=g": (
        "experiment/g.yaml",
        "# @package _global_\ndefaults:\n  - override /probes: harmful\ngrid:\n  steps: x\n",
        "grid.steps=x: give a whole number",
    ),
}


@pytest.mark.parametrize("override", WRONG_VALUES)
def test_a_wrong_value_in_a_preset_is_named_with_its_option_and_a_remedy(tmp_path: Path, override: str) -> None:
    name, content, expected = WRONG_VALUES[override]
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as error:
        compose([override, "engine=dummy"], str(tmp_path))
    assert str(error.value).startswith(f"preset={tmp_path / name}: {expected}")


def test_a_preset_of_other_types_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "system_prompt").mkdir()
    (tmp_path / "system_prompt" / "s.yaml").write_text("name: [a]\nother: 3\n")
    with pytest.raises(UserError, match=r"system_prompt/s.yaml"):
        Presets(str(tmp_path)).read("system_prompt", "s", SystemPromptConfig, "system_prompts")


def test_a_recipe_with_a_slip_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "r.yaml").write_text("name: [\n")
    with pytest.raises(UserError, match=r"recipe/r.yaml"):
        read_recipe(compose(["finetune.recipe=r"]).finetune, [], str(tmp_path))
