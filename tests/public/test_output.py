"""Output: figures, terminals and machines that are not as expected."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import doctor
from orchestrator.cli.output import print_json
from orchestrator.execution import slurm
from orchestrator.utils import nvidia
from orchestrator.utils.safe_console import SafeConsole
from orchestrator.utils.sanitize import SafeStream
from tests.public.reports import reported


@reported("matplotlib/matplotlib#20266", "telperion/nine-or-null#14", failed_here=True)
@pytest.mark.parametrize("name", ["$$", "$\\frac$", "costs $5 and $6"])
def test_dollar_signs_in_names_are_drawn(tmp_path: Path, name: str) -> None:
    """Text between dollar signs is a formula to Matplotlib, or an error; names are drawn as they are."""
    import matplotlib.pyplot as plt

    from orchestrator.report.figures.common import save

    figure = plt.figure(figsize=(1, 1))
    text = figure.suptitle(name)
    assert text.get_parse_math() is False
    save(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size


@reported("georgian-io/LLM-Finetuning-Toolkit#175", "assafelovic/gpt-researcher#645", failed_here=True)
def test_a_terminal_without_a_character_gets_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Printing a character that the terminal's encoding lacks raised an error; it is escaped, and JSON stays JSON."""
    buffer = io.BytesIO()
    stream = SafeStream(io.TextIOWrapper(buffer, encoding="latin-1", errors="strict"))
    stream.write("≤\n")
    monkeypatch.setattr("sys.stdout", stream)
    print_json({"model": "≤ 🙈"})
    stream.flush()
    first, _, document = buffer.getvalue().decode("ascii").partition("\n")
    assert first == "\\u2264"
    assert json.loads(document) == {"model": "≤ 🙈"}


@reported("inseq-team/inseq#255", "lm-sys/FastChat#2553")
def test_brackets_in_texts_are_no_markup() -> None:
    """Rich takes [/INST] for a closing tag without an opening one and raises an error; here it is text."""
    stream = io.StringIO()
    SafeConsole(file=stream).print("[INST] hello [/INST]")
    assert stream.getvalue() == "[INST] hello [/INST]\n"


@reported("unslothai/unsloth#10703", "SouthpawIN/turbofit#5", failed_here=True)
def test_a_gpu_without_memory_of_its_own_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-smi prints [N/A] for the memory of a GPU that shares the machine's; the GPU is there nevertheless."""

    def smi(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(
            [], 0, "NVIDIA GB10, [N/A], 580.1, GPU-1, 12.1\nNVIDIA H100, 81559, 580.1, GPU-2, 9.0\n", ""
        )

    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("subprocess.run", smi)
    shared, own = nvidia.gpus.__wrapped__()
    assert (shared.name, own.memory) == ("NVIDIA GB10", 81559 << 20)
    assert shared.memory > 1 << 30


@reported("equinor/ert#9000")
def test_what_sbatch_refuses_is_said_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time with a decimal point is refused by sbatch, which ended in a traceback; its reason is shown."""
    refusal = subprocess.CompletedProcess([], 255, "", "sbatch: error: Invalid --time specification\n")
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: refusal)
    with pytest.raises(slurm.UserError, match="refused the job: sbatch: error: Invalid --time specification"):
        slurm.submit("#!/bin/sh\n")


@pytest.mark.parametrize("endpoint", ["http://host:abc", "http://[::1"])
@reported("NousResearch/hermes-agent#10545", failed_here=True)
def test_an_address_that_is_none_is_a_finding(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """A proxy or endpoint with a malformed address ended in a traceback; doctor reports it as its finding."""
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert doctor._hub().status == "warn"
