"""Models that the engine or the prompts do not support are refused before anything is loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from orchestrator.config.compose import compose
from orchestrator.models.checkpoint import read_checkpoint
from orchestrator.pipeline import checks
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from orchestrator.utils.errors import UserError
from tests.unit.models.target_files import model, weights


def test_a_model_with_an_image_encoder_is_refused_without_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is accepted with torchvision or with another engine."""
    text_only = read_checkpoint(model(tmp_path / "base", weights(0)))
    architecture = {"architectures": [checks.NEEDS_TORCHVISION]}
    with_images = dataclasses.replace(text_only, config={**text_only.config, **architecture})
    local = compose([f"model.path={text_only.path}"])
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^model\.path=.*needs torchvision"):
        checks.check_image_encoder(local, with_images)
    checks.check_image_encoder(local, text_only)
    checks.check_image_encoder(compose([f"model.path={text_only.path}", "engine=transformers"]), with_images)
    monkeypatch.setattr(checks, "find_spec", lambda name: name)
    checks.check_image_encoder(local, with_images)


@pytest.mark.parametrize(
    ("name", "config_size"), [("model.embed_tokens.weight", 99), ("transformer.wte.weight", 99), ("other.weight", 8)]
)
def test_a_token_beyond_the_embedding_is_refused(tmp_path: Path, name: str, config_size: int) -> None:
    read = read_checkpoint(model(tmp_path / "base", weights(0)))
    header = dataclasses.replace(next(iter(read.tensors.values())), shape=(8, 4))
    checkpoint = dataclasses.replace(read, config={**read.config, "vocab_size": config_size}, tensors={name: header})

    def prompts(*ids: int, letters: tuple[int, ...] = ()) -> PromptSet:
        return PromptSet("harmful", (Prompt("Hi"),), ("Hi",), (ids,), Sampling(letter_tokens=letters))

    checks.check_token_ids(checkpoint, [prompts(0, 7)])
    checks.check_token_ids(None, [prompts(0, 8)])
    for beyond in (prompts(0, 8, 1), prompts(0, letters=(1, 8))):
        with pytest.raises(UserError, match="gives token 8 in the prompt 'Hi', and the embedding holds 8 tokens"):
            checks.check_token_ids(checkpoint, [prompts(7), beyond])


def test_the_length_is_lowered_to_what_the_model_was_made_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read = read_checkpoint(model(tmp_path / "base", weights(0)))
    checkpoint = dataclasses.replace(read, config={**read.config, "max_position_embeddings": 100})
    config = compose([f"model.path={read.path}"])
    caplog.set_level("INFO")
    checks.lower_max_model_len(config, checkpoint)
    assert config.model.max_model_len == 100
    assert caplog.messages == ["model.max_model_len=2048 is lowered to 100, for which the model was made."]
    checks.lower_max_model_len(config, checkpoint)
    assert len(caplog.messages) == 1
    prompts = PromptSet("harmful", (Prompt("Hi"),), ("Hi",), (tuple(range(40)),), Sampling(61))
    with pytest.raises(UserError, match=r"the model was made for 100: lower sampling\.max_tokens to 60$"):
        checks.check_lengths(config, checkpoint, [prompts])
    with pytest.raises(UserError, match="raise it to 101, or lower"):
        checks.check_lengths(config, None, [prompts])
    checks.check_lengths(config, checkpoint, [dataclasses.replace(prompts, sampling=Sampling(60))])


def test_a_local_run_with_vllm_is_refused_elsewhere_than_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    checks.check_platform(compose([]))
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(UserError, match="here engine=transformers runs small models slowly, and plan"):
        checks.check_platform(compose([]))
    checks.check_platform(compose(["engine=transformers"]))
    checks.check_platform(compose(["engine=dummy"]))
    checks.check_platform(compose(["cluster=ray", "cluster.address=auto"]))
