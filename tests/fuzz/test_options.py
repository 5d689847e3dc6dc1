"""Overrides, presets and options of SLURM of any text give a configuration, or are refused in one sentence."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from orchestrator.config.compose import compose
from orchestrator.config.overrides import check_override, multirun, option_types
from orchestrator.config.presets import Presets
from orchestrator.config.schema import Config
from orchestrator.execution.slurm import job_script
from orchestrator.utils.errors import UserError
from orchestrator.utils.parsing import FormatError, read_yaml_scalars
from tests.fuzz.fuzzing import SCALARS, damaged, fuzz

KEYS = sorted(option_types(Config))
ANY_TEXT = st.text(max_size=20) | st.text("\\'\"${}[]()=,: \n~+a1-", max_size=12) | SCALARS.map(str)
SLURM_KEYS = ("time", "partition", "account", "qos", "options", "setup", "nodes", "port")
PRESET = b"""name: mine
path: DIR   # a folder
size: {parameters: 12, layers: 2}
max_model_len: 1_000
license: "yes"
revision: 0123
pair: &x other
template: *x
"""


def encodable(text: str) -> bool:
    return text.isascii() or text == text.encode(errors="replace").decode()


@fuzz(150)
@given(ANY_TEXT.filter(encodable))
def test_a_text_is_taken_as_it_is(text: str) -> None:
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    assume(not is_quoted and text not in ("null", "???"))
    override = check_override(f"system_prompt.text={text}", Presets())
    parsed = OverridesParser.create().parse_override(str(override)).value()
    assert OmegaConf.create({"text": parsed}).text == text


@fuzz(20)
@given(st.lists(st.tuples(st.sampled_from(KEYS) | ANY_TEXT, ANY_TEXT).map("=".join), min_size=1, max_size=2))
def test_overrides(overrides: list[str]) -> None:
    multirun(overrides)
    with contextlib.suppress(UserError):
        assert compose(overrides)


@fuzz(12)
@given(
    st.sampled_from(["time", "partition", "account", "qos", "options", "setup", "nodes", "port"]), ANY_TEXT, ANY_TEXT
)
def test_options_of_slurm(key: str, value: str, name: str) -> None:
    overrides = ["cluster=slurm", "model=dummy", f"cluster.slurm.{key}={value}", f"name={name}"]
    try:
        script = job_script(compose(overrides), overrides)
    except UserError:
        return
    header = script.partition("\nset ")[0]
    assert all(line.startswith("#") for line in header.splitlines())


def test_presets(tmp_path_factory: pytest.TempPathFactory) -> None:
    file: Path = tmp_path_factory.mktemp("presets") / "mine.yaml"

    @fuzz(200)
    @given(damaged(PRESET) | st.text(max_size=40).map(lambda text: text.encode(errors="surrogatepass")))
    def attempt(content: bytes) -> None:
        file.write_bytes(content)
        with contextlib.suppress(FormatError):
            for key, line, written, _ in read_yaml_scalars(file):
                assert isinstance(key, str) and line > 0 and isinstance(written, str)

    attempt()
