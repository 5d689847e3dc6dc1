"""A probe set of an installed package is chosen by its name, as one of a preset is."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.config import probe_plugins
from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.pipeline.prompt_sets import load_blocks
from tests.unit.packages import declare, forget_packages

CODE = """from pathlib import Path

PROBES = {"path": Path(__file__).with_name("requests.csv"), "column": "ask", "group": "benign", "license": "MIT"}
"""


def write(site: Path, code: str) -> None:
    (site / "my_probes.py").write_text(code, encoding="utf-8")
    forget_packages()
    sys.modules.pop("my_probes", None)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install a package with an entry point for a probe set, as pip leaves it."""
    declare(tmp_path, "my-probes", probe_plugins.ENTRY_POINTS, "garden = my_probes")
    (tmp_path / "requests.csv").write_text("ask\nHow do roses grow?\nWhen do bees fly?\n", encoding="utf-8")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "dont_write_bytecode", True)  # else a change within a second is not noticed
        patched.syspath_prepend(tmp_path)
        write(tmp_path, CODE)
        yield tmp_path
    forget_packages()


def test_a_probe_set_of_a_package_is_chosen_alone_and_beside_others(site: Path) -> None:
    config = compose(["engine=dummy", "probes=garden", "probes.limit=1"])
    ((probes,),) = load_blocks(config, Presets(), 1)
    assert (probes.name, probes.group, [prompt.text for prompt in probes.prompts]) == (
        "garden",
        "benign",
        ["How do roses grow?"],
    )
    config = compose(["engine=dummy", "probe_sets=[harmful,garden]"])
    (block,) = load_blocks(config, Presets(), 1)
    assert [probes.name for probes in block] == ["harmful", "garden"]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("x = 1\nraise RuntimeError('broken')", r"raises RuntimeError \(broken\) in line 2 of .*my_probes\.py"),
        ("PROBES = ['How?']", "PROBES is no mapping with a path"),
        (
            CODE.replace('"column"', '"colum"'),
            "has 'colum', which is no option of probes, did you mean 'column'",
        ),
    ],
)
def test_a_package_that_cannot_be_used_is_named(
    site: Path, capsys: pytest.CaptureFixture[str], code: str, why: str
) -> None:
    write(site, code)
    for option in ("probes=garden", "probe_sets=[garden]"):
        assert main(["plan", "engine=dummy", option]) == 2
        error = capsys.readouterr().err
        assert re.search(why, error) and "my-probes" in error, error
