"""Overrides: keys must exist, values must have the type of their key, and each error is one sentence."""

from __future__ import annotations

import pytest

from orchestrator.config.compose import compose
from orchestrator.config.descriptions import descriptions
from orchestrator.config.overrides import check_override, multirun, option_types, section_only, split_section
from orchestrator.config.presets import Presets
from orchestrator.config.schema import Config
from orchestrator.utils.choices import Dtype, GridKind, Retry
from orchestrator.utils.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grid.steps=4", "grid.steps=4"),
        ("+grid.steps=4", "grid.steps=4"),
        ("model.path=a,b: [c]", "model.path='a,b: [c]'"),
        ("model.path=null", "model.path=null"),
        ("grid.towards=[a b, c]", "grid.towards=['a b','c']"),
        ("grid.norm=filter", "grid.norm=filter"),
        ("retry=null", "retry=null"),
        ("model=mistral7b", "model=mistral7b"),
    ],
)
def test_texts_are_quoted_for_hydra(text: str, expected: str) -> None:
    assert str(check_override(text, Presets())) == expected


@pytest.mark.parametrize(
    ("text", "field", "remedy"),
    [
        ("grid.steps", "override", "write it as key=value"),
        ("grid=random_3d", "grid", "did you mean 'random_2d'?"),
        ("grid.stepz=4", "grid.stepz", "did you mean 'grid.steps'?"),
        ("sampling=4", "sampling", "set one of its fields, such as sampling.max_tokens="),
        ("grid.steps=four", "grid.steps", "give a whole number"),
        ("grid.steps=4,5", "grid.steps", "give a whole number (several at once: add -m)"),
        ("grid.range=[a,b]", "grid.range", "give numbers in brackets"),
        ("grid.norm=filtre", "grid.norm", "must be one of layer, filter, sigma, did you mean 'filter'?"),
        (
            "probes.group=Benign",
            "probes.group",
            "must be one of harmful, benign, jailbreak, capability, did you mean 'benign'?",
        ),
        ("grid.norm=layer,filter", "grid.norm", "(several at once: add -m)"),
        ("retry=all", "retry", "must be one of failed"),
        ("engine.eager=perhaps", "engine.eager", "give true or false"),
        ("out=", "out", "is empty, as an unset variable is"),
        ("model.path= ", "model.path", "is empty"),
        ("probes.path=''", "probes.path", "is empty"),
        ("grid.steps=", "grid.steps", "is empty"),
        ("grid.towards=", "grid.towards", "is empty"),
        (
            "out=ftp://bucket/studies",
            "out",
            "ftp:// is not supported: give a path of this machine's file system, or the",
        ),
        ("export.to=s3://bucket/x", "export.to", "s3:// is not supported: give a path"),
        ("model.path=s3://bucket/x", "model.path", "s3:// is not supported: give a path"),
        ("out=s3://", "out", "name a bucket"),
        ("probes.path=https://a.org/p.csv", "probes.path", "https:// is not supported"),
        ("grid.towards=[a,gs://b/c]", "grid.towards", "gs:// is not supported"),
        ("out='file:///data/x'", "out", "write the path alone: /data/x"),
        ("model.path=hf://a/b", "model.path", "write model.hub=a/b"),
        ("sampling.temperature=0.7", "sampling.temperature", "decoding is always greedy"),
        ("sampling.top_p=0.9", "sampling.top_p", "decoding is always greedy"),
    ],
)
def test_an_error_names_the_field_and_the_remedy(text: str, field: str, remedy: str) -> None:
    with pytest.raises(UserError) as error:
        check_override(text, Presets())
    assert error.value.field == field
    assert remedy in error.value.remedy


def test_a_text_for_which_empty_is_a_choice_may_be_empty() -> None:
    assert compose(["system_prompt.text="]).system_prompt.text == ""
    assert compose(["probes.prefill="]).probes.prefill == ""


def test_values_longer_than_a_file_name_are_compared_with_names_of_presets() -> None:
    text = "a" * 5000
    assert compose([f"system_prompt.text={text}"]).system_prompt.text == text
    with pytest.raises(UserError, match="there is no such model"):
        compose([f"model={text}"])


def test_a_colon_in_a_path_is_no_scheme() -> None:
    assert compose(["model.path=a:b//c", "engine=dummy"]).model.path == "a:b//c"


def test_a_model_can_be_named_by_its_id_on_the_hub() -> None:
    preset = compose(["model=mistralai/mistral-7b-instruct-v0.2"]).model
    assert preset == compose(["model=mistral7b"]).model
    other = compose(["model=someone/tiny.model"]).model
    assert (other.hub, other.name, other.revision, other.path) == ("someone/tiny.model", "tiny.model", None, None)
    for folder in ("./models/tiny", "/models/tiny", "a/b/c", "models/"):
        with pytest.raises(UserError, match=f"a folder is written model.path={folder}"):
            compose([f"model={folder}"])


def test_choices_become_enum_members_that_are_stored_by_name() -> None:
    config = compose(["model.dtype=float16", "retry=failed", "grid=random_2d"])
    assert config.model.dtype is Dtype.float16
    assert config.retry is Retry.failed
    assert config.grid.kind is GridKind.random_2d
    assert f"{config.grid.kind}" == "random_2d"


def test_every_option_has_a_description() -> None:
    described = descriptions()
    assert list(described) != [] and set(described) == set(option_types(Config))
    assert [key for key, text in described.items() if len(text) < 10] == []


def test_a_command_takes_its_own_options_by_their_short_names() -> None:
    overrides = ["visage=70", "gate.confidence=0.9", "+allow_single=true"]
    expected = ["gate.visage=70", "gate.confidence=0.9", "gate.allow_single=true"]
    assert section_only(overrides, "gate") == expected
    assert split_section([*overrides, "out=x"], "gate") == (expected, ["out=x"])
    with pytest.raises(UserError, match="`gate` has no such option, did you mean 'visage'"):
        section_only(["visge=70"], "gate")
    with pytest.raises(UserError, match="`view` has no such option, did you mean 'port'"):
        section_only(["view.prt=1"], "view")


def test_combinations_vary_the_last_override_fastest() -> None:
    assert multirun(["a=1,2", "b=[x,y],'p,q'"]) == [
        ["a=1", "b=[x,y]"],
        ["a=1", "b='p,q'"],
        ["a=2", "b=[x,y]"],
        ["a=2", "b='p,q'"],
    ]
