"""Mistakes, help and dry runs: answered at once, in one sentence, with nothing written."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import call, refused, tree
from tests.unit.stored import basin, store_sweep

HEAVY = ("torch", "vllm", "ray", "transformers")


def imported(*arguments: str) -> tuple[int, set[str]]:
    """The exit code of a command line and which of the heavy packages its process loaded."""
    code = (
        "import sys; from orchestrator.cli.main import main; code = main(sys.argv[1:]);"
        f"print(); print(code, *(m for m in {HEAVY!r} if m in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    last, *names = done.stderr.splitlines()[-1].split()
    return int(last), set(names)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["run", "grid.stesp=4"], ["run", "model=mistrall7b"], ["rnu"]]
)
def test_help_and_mistakes_load_nothing_heavy(arguments: list[str]) -> None:
    code, loaded = imported(*arguments)
    assert code == (0 if "--help" in arguments else 2) and loaded == set()


def test_help_names_every_verb_and_option() -> None:
    said = call("--help")
    assert said.code == 0
    for verb in ("run", "plan", "status", "judge", "reduce", "models", "doctor", "finetune"):
        assert f"\n  {verb} " in said.out
    every = call("run", "--help").out
    assert "grid.steps=20" in every and "mistral7b" in every and "sampling.early_stop=false" in every
    assert call().code == 2


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("grdi.steps=4", ("grdi.steps=4", "did you mean 'grid.steps'")),
        ("model=mistrall7b", ("model=mistrall7b", "did you mean 'mistral7b'")),
        ("grid=random1d", ("grid=random1d", "did you mean 'random_1d'")),
        ("engine=vlm", ("engine=vlm", "did you mean 'vllm'")),
        ("judge=keywords", ("judge=keywords", "did you mean 'keyword'")),
        ("judge=degenerate", ("judge=degenerate", "keyword")),
        ("system_prompts=[default,saftey]", ("saftey", "did you mean 'safety'")),
        ("probe_sets=[harmfull]", ("harmfull", "did you mean 'harmful'")),
        ("grid.steps=many", ("grid.steps=many", "whole number")),
        ("grid.steps=0", ("grid.steps=0", "at least 1")),
        ("grid.directions=0", ("grid.directions=0", "at least 1")),
        ("grid.range=[0.5,-0.5]", ("grid.range=", "less than")),
        ("grid.range=[nan,0.5]", ("grid.range=", "finite")),
        ("grid.range=[0.5]", ("grid.range=", "two")),
        ("grid.range_y=[-1,1]", ("grid.range_y=", "second axis")),
        ("grid.norm=layers", ("grid.norm=layers", "did you mean 'layer'")),
        ("sampling.max_tokens=0", ("sampling.max_tokens=0", "at least 1")),
        ("sampling.max_tokens=100000", ("model.max_model_len=", "sampling.max_tokens")),
        ("cluster.actors=0", ("cluster.actors=0", "at least 1")),
        ("probes.limit=0", ("probes.limit=0", "at least 1")),
        ("grid", ("takes overrides only",)),
        ("grid=", ("grid=", "there is no such grid")),
        ("--jsn", ("--jsn", "did you mean '--json'")),
        ("--config-dir=nowhere", ("--config-dir=nowhere", "no such folder")),
    ],
)
def test_a_wrong_override_is_one_sentence_and_leaves_no_trace(
    override: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "studies"
    refused(call("run", "engine=dummy", f"out={out}", override), *parts)
    assert not out.exists()


def probe_file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.csv", b"ask,kind\nHow?,x\n", ("probes.column", "ask")),
        ("a.csv", b"text\n", ("no rows",)),
        ("a.csv", b"text\nHow\xff\n", ("UTF-8",)),
        ("a.csv", b"text\nHow?\nWhy?\nHow?\n", ("How?",)),
        ("a.txt", b"How?\n", (".txt",)),
        ("missing.csv", None, ("missing.csv",)),
    ],
    ids=["column", "rows", "utf8", "twice", "kind", "missing"],
)
def test_a_wrong_probe_file(name: str, content: bytes | None, parts: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / name if content is None else probe_file(tmp_path, name, content)
    refused(call("run", "engine=dummy", f"out={tmp_path / 'out'}", f"probes.path={path}"), *parts)
    assert not (tmp_path / "out").exists()


def test_an_out_that_cannot_hold_studies(tmp_path: Path) -> None:
    file = probe_file(tmp_path, "studies", b"precious")
    refused(call("run", "engine=dummy", f"out={file}"), "out=", "file")
    refused(call("run", "engine=dummy", f"out={file / 'below'}"), "out=", "file")
    assert file.read_bytes() == b"precious"


def test_models_that_cannot_be_had(tmp_path: Path, make_tiny: Callable[..., Path]) -> None:
    out = f"out={tmp_path / 'out'}"
    refused(call("run", f"model.path={tmp_path / 'nowhere'}", out), "model.path=", "no such folder")
    quantised = tmp_path / "quantised"
    shutil.copytree(make_tiny("llama"), quantised)
    config = json.loads((quantised / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (quantised / "config.json").write_text(json.dumps(config))
    refused(call("run", f"model.path={quantised}", out), "model.path=", "gptq")
    pickled = tmp_path / "pickled"
    shutil.copytree(make_tiny("llama"), pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    (pickled / "pytorch_model.bin").write_bytes(b"never read")
    refused(call("run", f"model.path={pickled}", out), "model.path=", "safetensors")
    refused(
        call("run", "+model=mistral7b", f"model.path={make_tiny('llama')}", out), "model.path=", "MistralForCausalLM"
    )
    offline = call("run", "+model=mistral7b", out, env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")})
    refused(offline, "model.path=", "model.path=DIR", "connect")
    assert not (tmp_path / "out").exists()


def test_plan_needs_neither_weights_nor_gpu(tmp_path: Path) -> None:
    said = call("plan", "+model=mistral7b", f"out={tmp_path / 'out'}", env={"HF_HOME": str(tmp_path / "hub")})
    assert said.code == 0, said
    for word in ("points", "61", "memory per GPU", "fits", "GPU-hours", "estimated"):
        assert word in said.out, word
    told = json.loads(call("plan", "model=mistral7b", "cluster.gpu=rtx4090", "--json").out)
    assert told["points"] == 61 and told["responses"] == 61 * 120 and told["gpu_hours"] > 0
    assert told["memory"]["weights"] == 2 * told["model"]["parameters"]
    assert not (tmp_path / "out").exists()
    refused(call("plan", "model=mistral7b", "cluster.gpu=h1000"), "cluster.gpu=h1000")


def test_plan_counts_what_is_stored(tmp_path: Path) -> None:
    sweep = ["engine=dummy", f"out={tmp_path}", "grid.directions=1", "grid.steps=4", "probes.limit=2"]
    before = json.loads(call("plan", *sweep, "--json").out)
    assert (before["points"], before["tasks"], before["tasks_stored"], before["visits"]) == (5, 5, 0, 5)
    assert tree(tmp_path) == {}


def test_doctor_and_models_say_what_is_here() -> None:
    said = call("doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(said.out)}
    assert said.code == 0 and len(findings) >= 8 and {f["status"] for f in findings.values()} <= {"ok", "warn"}
    assert call("doctor").code == 0
    presets = json.loads(call("models", "--json").out)
    assert {"mistral7b", "llama2_7b", "llama3_8b", "vicuna7b", "smollm2_135m"} <= {p["name"] for p in presets}
    assert len(presets) >= 11 and not any(p["name"] == "dummy" for p in presets)
    assert call("models").code == 0
    refused(call("models", "mistrall7b"), "did you mean 'mistral7b'")


def test_json_keeps_stdout_for_the_result() -> None:
    said = call("run", "engine=dummy", "grid.steps=x", "--json")
    assert said.code == 2 and json.loads(said.out)["error"]["field"] == "grid.steps"


def test_multirun_finds_mistakes_before_anything_is_run(tmp_path: Path) -> None:
    said = call("run", "-m", "engine=dummy", f"out={tmp_path / 'out'}", "grid.steps=2,0")
    refused(said, "grid.steps=0")
    assert not (tmp_path / "out").exists()


def test_an_own_config_folder(tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ngrid: {steps: 2, directions: 1}\n"
    )
    said = call("plan", "engine=dummy", "+experiment=mine", f"--config-dir={tmp_path / 'conf'}", "--json",
                f"out={tmp_path / 'out'}")  # fmt: skip
    assert json.loads(said.out)["points"] == 3, said.err
    assert os.environ.get("HYDRA_FULL_ERROR") is None


# Verbs on what is stored.


@pytest.mark.cluster
def test_a_multirun_goes_on_after_a_mistake_and_says_so_in_its_exit_code(tmp_path: Path) -> None:
    one, other = (probe_file(tmp_path, f"{asks}.csv", f"text\n{asks}?\n".encode()) for asks in ("how", "why"))
    said = call("run", "-m", "engine=dummy", "grid.directions=1", "grid.steps=2", f"out={tmp_path / 'out'}",
                f"probes.path={one},{tmp_path / 'missing.csv'},{other}")  # fmt: skip
    refused(said, "missing.csv")
    assert len(list(tmp_path.glob("out/*/sweeps/*/summary.json"))) == 2
    assert "Side by side" in said.err


@pytest.mark.cluster
def test_several_models_are_swept_and_compared_in_one_picture(tmp_path: Path) -> None:
    said = call("run", "-m", "engine=dummy", "+experiment=model_size", "model.name=small,large", "grid.directions=1",
                "grid.steps=4", "probes.limit=8", f"out={tmp_path / 'out'}")  # fmt: skip
    assert said.code == 0, said.err
    told = next(line for line in said.err.splitlines() if line.startswith("Side by side"))
    _, _, _, verb, *arguments = shlex.split(told.partition(": ")[2])
    page = tmp_path / "compared.html"
    said = call(verb, *arguments[:-1], f"html={page}")
    assert (verb, arguments[-1], said.code) == ("compare", "html=compared.html", 0), said.err
    text = page.read_text(encoding="utf-8")
    assert "small" in text and "large" in text and "svg" in text.lower()


@pytest.mark.cluster
def test_a_sweep_is_named_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = call("run", "engine=dummy", "grid.directions=1", "grid.steps=2", "probes.limit=4", "--json")
    assert ran.code == 0, ran.err
    folder = json.loads(ran.out)["paths"]["folder"]
    assert not Path(folder).is_absolute() and Path(folder).is_dir()
    for arguments in (["status", folder], ["reduce", folder], ["report", folder], ["compare", folder, folder]):
        said = call(*arguments)
        assert said.code == 0, (arguments, said.err)
    assert call("gate", folder, "origin_asr=100").code in (0, 1)


def flip(path: Path) -> None:
    """One bit, in a page: seen only when the rows are read."""
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def sweep_in(out: Path) -> tuple[Path, bytes]:
    """The folder of a sweep that was run, judged and reduced, and its landscape."""
    folder = store_sweep(out, basin(0.25), directions=1)
    assert call("reduce", str(folder)).code == 0
    return folder, (folder / "landscape.parquet").read_bytes()


def test_judge_mends_damaged_verdicts(tmp_path: Path) -> None:
    folder, landscape = sweep_in(tmp_path)
    (verdicts, *_) = sorted(tmp_path.glob("*/judgements/*/*.parquet"))
    flip(verdicts)
    said = call("judge", str(folder), "engine=dummy")
    assert said.code == 0 and f"{verdicts.name} does not verify" in said.err, said
    assert (folder / "landscape.parquet").read_bytes() == landscape
    assert call("verify", str(tmp_path)).code == 0 and len(list(tmp_path.glob("*/damaged/*/*/*.parquet"))) == 1


def test_judge_says_that_responses_are_gone(tmp_path: Path) -> None:
    folder, _ = sweep_in(tmp_path)
    (responses,) = tmp_path.glob("*/generations/*.parquet")
    flip(responses)
    for path in tmp_path.glob("*/judgements/*/*.parquet"):
        path.unlink()
    said = call("judge", str(folder), "engine=dummy")
    assert said.code == 1 and f"generations/{responses.name} does not verify" in said.err, said


def test_reduce_names_what_is_damaged_and_leaves_it(tmp_path: Path) -> None:
    folder, _ = sweep_in(tmp_path)
    (verdicts, *_) = sorted(tmp_path.glob("*/judgements/*/*.parquet"))
    flip(verdicts)
    said = call("reduce", str(folder))
    assert said.code == 1 and f"{verdicts.name} does not verify" in said.err and "`judge`" in said.err, said
    assert verdicts.exists() and call("verify", str(tmp_path)).code == 1


def test_a_damaged_prompt_set_is_one_sentence(tmp_path: Path) -> None:
    folder, _ = sweep_in(tmp_path)
    (prompts,) = tmp_path.glob("*/prompts/*.parquet")
    flip(prompts)
    for verb in ("judge", "reduce", "report"):
        said = call(verb, str(folder))
        assert said.code == 1 and "Traceback" not in said.err, said.err
        assert f"{prompts.name}: " in said.err and "`verify` says what can be done" in said.err


def test_a_damaged_study_does_not_hide_the_others(tmp_path: Path) -> None:
    folder = store_sweep(tmp_path, basin(0.25), directions=1)
    other = store_sweep(tmp_path, basin(0.25), model="other", directions=1).parents[1]
    (other / "study.json").write_text("{")
    root = str(tmp_path)
    checked = call("verify", root, "--json")
    found = {Path(study).name: len(report["findings"]) for study, report in json.loads(checked.out).items()}
    assert checked.code == 1 and found == {other.name: 1, folder.parents[1].name: 0}
    for verb in ("status", "compact"):
        said = call(verb, root, "--json")
        assert said.code == 0 and len(json.loads(said.out)) == 1, said
        assert f"passed over: study={other}" in said.err
    assert call("verify", str(other)).code == 1
    refused(call("status", str(other)), "study.json does not verify")
