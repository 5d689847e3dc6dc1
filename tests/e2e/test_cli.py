"""Test help, user errors (one error line, nothing written), dry runs, and the verbs on stored sweeps."""

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

from tests.documents import read_documents
from tests.e2e.conftest import assert_refused, call, tree
from tests.unit.stored import basin, store_sweep

HEAVY = ("torch", "vllm", "ray", "transformers")


def loaded_packages(*arguments: str) -> tuple[int, set[str]]:
    """Return the exit code of a command line and the heavy packages that its process loaded."""
    code = (
        "import sys; from orchestrator.cli.main import main; code = main(sys.argv[1:]);"
        f"print(); print(code, *(m for m in {HEAVY!r} if m in sys.modules), file=sys.stderr)"
    )
    completed = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    last, *names = completed.stderr.splitlines()[-1].split()
    return int(last), set(names)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["run", "grid.stesp=4"], ["run", "model=mistrall7b"], ["rnu"]]
)
def test_help_and_user_errors_load_no_heavy_package(arguments: list[str]) -> None:
    code, loaded = loaded_packages(*arguments)
    assert code == (0 if "--help" in arguments else 2) and loaded == set()


def test_help_names_every_verb_and_option() -> None:
    result = call("--help")
    assert result.code == 0
    for verb in ("run", "plan", "status", "judge", "reduce", "models", "doctor", "finetune"):
        assert f"\n  {verb} " in result.out
    every = call("run", "--help").out
    assert "grid.steps=20" in every and "mistral7b" in every and "sampling.early_stop=" in every
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
def test_a_wrong_override_gives_one_error_line_and_writes_nothing(
    override: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "studies"
    assert_refused(call("run", "engine=dummy", f"out={out}", override), *parts)
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
def test_a_wrong_probe_file_is_refused(
    name: str, content: bytes | None, parts: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / name if content is None else probe_file(tmp_path, name, content)
    assert_refused(call("run", "engine=dummy", f"out={tmp_path / 'out'}", f"probes.path={path}"), *parts)
    assert not (tmp_path / "out").exists()


def test_an_output_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = probe_file(tmp_path, "studies", b"precious")
    assert_refused(call("run", "engine=dummy", f"out={file}"), "out=", "file")
    assert_refused(call("run", "engine=dummy", f"out={file / 'below'}"), "out=", "file")
    assert file.read_bytes() == b"precious"


def test_models_that_cannot_be_loaded_are_refused(tmp_path: Path, make_tiny: Callable[..., Path]) -> None:
    out = f"out={tmp_path / 'out'}"
    assert_refused(call("run", f"model.path={tmp_path / 'nowhere'}", out), "model.path=", "no such folder")
    quantized = tmp_path / "quantised"
    shutil.copytree(make_tiny("llama"), quantized)
    config = json.loads((quantized / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (quantized / "config.json").write_text(json.dumps(config))
    assert_refused(call("run", f"model.path={quantized}", out), "model.path=", "gptq")
    pickled = tmp_path / "pickled"
    shutil.copytree(make_tiny("llama"), pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    (pickled / "pytorch_model.bin").write_bytes(b"never read")
    assert_refused(call("run", f"model.path={pickled}", out), "model.path=", "safetensors")
    assert_refused(
        call("run", "+model=mistral7b", f"model.path={make_tiny('llama')}", out), "model.path=", "MistralForCausalLM"
    )
    offline = call("run", "+model=mistral7b", out, env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")})
    assert_refused(offline, "model.path=", "model.path=DIR", "connect")
    assert not (tmp_path / "out").exists()


def test_plan_needs_neither_weights_nor_gpu(tmp_path: Path) -> None:
    result = call("plan", "+model=mistral7b", f"out={tmp_path / 'out'}", env={"HF_HOME": str(tmp_path / "hub")})
    assert result.code == 0, result
    for word in ("points", "61", "memory per GPU", "fits", "GPU-hours", "estimated"):
        assert word in result.out, word
    plan = json.loads(call("plan", "model=mistral7b", "cluster.gpu=rtx4090", "--json").out)
    assert plan["points"] == 61 and plan["responses"] == 61 * 120 and plan["gpu_hours"] > 0
    assert plan["memory"]["weights"] == 2 * plan["model"]["parameters"]
    assert not (tmp_path / "out").exists()
    assert_refused(call("plan", "model=mistral7b", "cluster.gpu=h1000"), "cluster.gpu=h1000")


def test_plan_counts_stored_tasks_and_writes_nothing(tmp_path: Path) -> None:
    sweep = ["engine=dummy", f"out={tmp_path}", "grid.directions=1", "grid.steps=4", "probes.limit=2"]
    before = json.loads(call("plan", *sweep, "--json").out)
    assert (before["points"], before["tasks"], before["tasks_stored"], before["visits"]) == (5, 5, 0, 5)
    assert tree(tmp_path) == {}


def test_doctor_and_models_list_findings_and_presets() -> None:
    result = call("doctor", "--json")
    findings = {finding["name"]: finding for finding in read_documents(result.out)}
    assert result.code == 0 and len(findings) >= 8 and {f["status"] for f in findings.values()} <= {"ok", "warn"}
    assert call("doctor").code == 0
    presets = read_documents(call("models", "--json").out)
    assert {"mistral7b", "llama2_7b", "llama3_8b", "vicuna7b", "smollm2_135m"} <= {p["name"] for p in presets}
    assert len(presets) >= 11 and not any(p["name"] == "dummy" for p in presets)
    assert call("models").code == 0
    assert_refused(call("models", "mistrall7b"), "did you mean 'mistral7b'")


def test_with_json_a_user_error_is_reported_on_stdout_as_json() -> None:
    result = call("run", "engine=dummy", "grid.steps=x", "--json")
    assert result.code == 2 and json.loads(result.out)["error"]["field"] == "grid.steps"


def test_multirun_reports_user_errors_before_anything_runs(tmp_path: Path) -> None:
    result = call("run", "-m", "engine=dummy", f"out={tmp_path / 'out'}", "grid.steps=2,0")
    assert_refused(result, "grid.steps=0")
    assert not (tmp_path / "out").exists()


def test_presets_in_a_config_folder_of_the_user_are_found(tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ngrid: {steps: 2, directions: 1}\n"
    )
    result = call("plan", "engine=dummy", "+experiment=mine", f"--config-dir={tmp_path / 'conf'}", "--json",
                f"out={tmp_path / 'out'}")  # fmt: skip
    assert json.loads(result.out)["points"] == 3, result.err
    assert os.environ.get("HYDRA_FULL_ERROR") is None


# Verbs on stored sweeps.


@pytest.mark.cluster
def test_a_multirun_continues_after_a_user_error_and_exits_with_code_2(tmp_path: Path) -> None:
    one, other = (probe_file(tmp_path, f"{name}.csv", f"text\n{name}?\n".encode()) for name in ("how", "why"))
    result = call("run", "-m", "engine=dummy", "grid.directions=1", "grid.steps=2", f"out={tmp_path / 'out'}",
                f"probes.path={one},{tmp_path / 'missing.csv'},{other}")  # fmt: skip
    assert_refused(result, "missing.csv")
    assert len(list(tmp_path.glob("out/*/sweeps/*/summary.json"))) == 2
    assert "Side by side" in result.err


@pytest.mark.slow
@pytest.mark.cluster
def test_a_multirun_of_several_models_can_be_compared_on_one_page(tmp_path: Path) -> None:
    result = call("run", "-m", "engine=dummy", "+experiment=model_size", "model.name=small,large", "grid.directions=1",
                "grid.steps=4", "probes.limit=8", f"out={tmp_path / 'out'}")  # fmt: skip
    assert result.code == 0, result.err
    suggestion = next(line for line in result.err.splitlines() if line.startswith("Side by side"))
    _, _, _, verb, *arguments = shlex.split(suggestion.partition(": ")[2])
    page = tmp_path / "compared.html"
    result = call(verb, *arguments[:-1], f"html={page}")
    assert (verb, arguments[-1], result.code) == ("compare", "html=compared.html", 0), result.err
    text = page.read_text(encoding="utf-8")
    assert "small" in text and "large" in text and "svg" in text.lower()


@pytest.mark.cluster
def test_verbs_accept_a_relative_path_to_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = call("run", "engine=dummy", "grid.directions=1", "grid.steps=2", "probes.limit=4", "--json")
    assert run.code == 0, run.err
    folder = read_documents(run.out)["paths"]["folder"]
    assert not Path(folder).is_absolute() and Path(folder).is_dir()
    for arguments in (["status", folder], ["reduce", folder], ["report", folder], ["compare", folder, folder]):
        result = call(*arguments)
        assert result.code == 0, (arguments, result.err)
    assert call("gate", folder, "origin_asr=100").code in (0, 1)


def flip(path: Path) -> None:
    """Flip one bit in a data page, which is noticed only when the rows are read."""
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def reduced_sweep(out: Path) -> tuple[Path, bytes]:
    """Store a judged sweep and reduce it; return its folder and the bytes of its landscape."""
    folder = store_sweep(out, basin(0.25), directions=1)
    assert call("reduce", str(folder)).code == 0
    return folder, (folder / "landscape.parquet").read_bytes()


def test_judge_replaces_damaged_verdicts(tmp_path: Path) -> None:
    folder, landscape = reduced_sweep(tmp_path)
    (verdicts, *_) = sorted(tmp_path.glob("*/judgements/*/*.parquet"))
    flip(verdicts)
    result = call("judge", str(folder), "engine=dummy")
    assert result.code == 0 and f"{verdicts.name} does not verify" in result.err, result
    assert (folder / "landscape.parquet").read_bytes() == landscape
    assert call("verify", str(tmp_path)).code == 0 and len(list(tmp_path.glob("*/damaged/*/*/*.parquet"))) == 1


def test_judge_reports_damaged_responses(tmp_path: Path) -> None:
    folder, _ = reduced_sweep(tmp_path)
    (responses,) = tmp_path.glob("*/generations/*.parquet")
    flip(responses)
    for path in tmp_path.glob("*/judgements/*/*.parquet"):
        path.unlink()
    result = call("judge", str(folder), "engine=dummy")
    assert result.code == 1 and f"generations/{responses.name} does not verify" in result.err, result


def test_reduce_names_damaged_files_and_leaves_them_in_place(tmp_path: Path) -> None:
    folder, _ = reduced_sweep(tmp_path)
    (verdicts, *_) = sorted(tmp_path.glob("*/judgements/*/*.parquet"))
    flip(verdicts)
    result = call("reduce", str(folder))
    assert result.code == 1 and f"{verdicts.name} does not verify" in result.err and "`judge`" in result.err, result
    assert verdicts.exists() and call("verify", str(tmp_path)).code == 1


def test_a_damaged_prompt_set_is_named_without_a_traceback(tmp_path: Path) -> None:
    folder, _ = reduced_sweep(tmp_path)
    (prompts,) = tmp_path.glob("*/prompts/*.parquet")
    flip(prompts)
    for verb in ("judge", "reduce", "report"):
        result = call(verb, str(folder))
        assert result.code == 1 and "Traceback" not in result.err, result.err
        assert f"{prompts.name}: " in result.err and "`verify` says what can be done" in result.err


def test_a_damaged_study_does_not_hide_the_others(tmp_path: Path) -> None:
    folder = store_sweep(tmp_path, basin(0.25), directions=1)
    other = store_sweep(tmp_path, basin(0.25), model="other", directions=1).parents[1]
    (other / "study.json").write_text("{")
    root = str(tmp_path)
    checked = call("verify", root, "--json")
    n_findings = {Path(study).name: len(report["findings"]) for study, report in json.loads(checked.out).items()}
    assert checked.code == 1 and n_findings == {other.name: 1, folder.parents[1].name: 0}
    for verb in ("status", "compact"):
        result = call(verb, root, "--json")
        assert result.code == 0 and len(json.loads(result.out)) == 1, result
        assert f"skipped: study={other}" in result.err
    assert call("verify", str(other)).code == 1
    assert_refused(call("status", str(other)), "study.json does not verify")
