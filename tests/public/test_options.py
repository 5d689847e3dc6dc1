"""Overrides and presets: texts that Hydra, OmegaConf and YAML read as something else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.config.compose import compose
from orchestrator.utils.errors import UserError
from tests.public.reports import reported


def preset(folder: Path, group: str, text: str) -> str:
    """Write a preset named mine, and return the folder of presets."""
    (folder / group).mkdir(parents=True)
    (folder / group / "mine.yaml").write_text(text, encoding="utf-8")
    return str(folder)


@reported("omry/omegaconf#981", failed_here=True)
@pytest.mark.parametrize("text", ["Pay ${amount} today", "${oc.env:HOME}", "a ${ alone", "\\${x}"])
def test_a_text_with_dollar_and_brace_is_itself(text: str) -> None:
    """A dollar sign and brace in a text began an interpolation; on the command line they are text."""
    assert compose([f"system_prompt.text={text}"]).system_prompt.text == text


@reported("hydra-ecosystem/hydra#1600", "hydra-ecosystem/hydra#1843", failed_here=True)
@pytest.mark.parametrize("text", ["a\\'b", "\\'", "ends with \\", "a\\\\'b", "it's a|b, (c)"])
def test_backslashes_and_quotes_in_a_text_are_themselves(text: str) -> None:
    """Quoted values with backslashes before a quote, and other signs, did not parse; a text is taken as it is."""
    assert compose([f"system_prompt.text={text}"]).system_prompt.text == text


@reported("MolSSI/QCFractal#731", failed_here=True)
def test_a_time_that_yaml_reads_as_seconds_is_refused(tmp_path: Path) -> None:
    """YAML reads 12:00:00 as 43200, which SLURM takes for minutes; the preset is refused until the time is quoted."""
    text = "kind: slurm\nslurm:\n  time: 12:00:00\n"
    with pytest.raises(UserError, match=re.escape("YAML reads slurm.time: 12:00:00 in line 3 as 43200")):
        compose(["cluster=mine"], preset(tmp_path / "bare", "cluster", text))
    quoted = preset(tmp_path / "quoted", "cluster", text.replace("12:00:00", "'12:00:00'"))
    assert compose(["cluster=mine"], quoted).cluster.slurm.time == "12:00:00"


@reported("yaml/pyyaml#613", "omry/omegaconf#317", failed_here=True)
@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "true"])
def test_a_word_that_yaml_reads_as_a_truth_value_is_refused(tmp_path: Path, word: str) -> None:
    """YAML 1.1 reads no, yes, on and off as truth values; a system prompt no became the text False."""
    with pytest.raises(UserError, match=f"put {word} in quotes"):
        compose(["system_prompt=mine"], preset(tmp_path, "system_prompt", f"name: mine\ntext: {word}\n"))


@reported("github/codeql-variant-analysis-action#845", "elastic/kibana#161934", failed_here=True)
@pytest.mark.parametrize("commit", ["9509425349e4", "0123456"])
def test_a_commit_that_yaml_reads_as_a_number_is_refused(tmp_path: Path, commit: str) -> None:
    """Commits of digits and an e were read as floats, and those with a leading zero as octal; they must be quoted."""
    with pytest.raises(UserError, match=f"put {commit} in quotes"):
        compose(["model=mine"], preset(tmp_path, "model", f"name: mine\nrevision: {commit}\n"))


@reported("commercialhaskell/stack#2088", "moby/moby#3491")
def test_a_commit_of_digits_is_that_text(tmp_path: Path) -> None:
    """A commit of digits only was read as a number where a text is expected; it is the text of these digits."""
    folder = preset(tmp_path, "model", "name: mine\nrevision: 3026281\n")
    assert compose(["model=mine"], folder).model.revision == "3026281"


@reported("pytest-dev/pytest-randomly#275", "partofthething/ace#4")
@pytest.mark.parametrize("seed", [-5, 9287349087])
def test_negative_and_large_seeds_are_accepted(seed: int) -> None:
    """NumPy refuses negative seeds and those above 2^32; seeds of directions have no such limit."""
    assert compose([f"grid.seed={seed}"]).grid.seed == seed


@reported("lllyasviel/Fooocus#44", failed_here=True)
def test_a_seed_that_could_not_be_stored_is_refused() -> None:
    """Seeds beyond a limit were replaced silently; one that a stored sweep could not hold is refused in a sentence."""
    with pytest.raises(UserError, match="must be at most"):
        compose([f"grid.seed={10**24}"])


@reported("hydra-ecosystem/hydra#2889", "hydra-ecosystem/hydra#398", failed_here=True)
def test_a_preset_with_the_short_suffix_is_named(tmp_path: Path) -> None:
    """A file that ends in .yml was not found, and the message did not say why; it says which file to rename."""
    folder = preset(tmp_path, "model", "name: mine\n")
    (tmp_path / "model" / "mine.yaml").rename(tmp_path / "model" / "mine.yml")
    with pytest.raises(UserError, match=r"there is no such model: rename .*/model/mine\.yml to mine\.yaml"):
        compose(["model=mine"], folder)
