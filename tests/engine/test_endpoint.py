"""The judge `openai` against a real server: vLLM's own, which serves a tiny random model on loopback."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.config.schema import Config, EngineConfig, OpenAIConfig
from orchestrator.pipeline.reduce import judge_and_reduce
from orchestrator.pipeline.rejudge import with_judges
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from tests.unit.stored import store_sweep

pytestmark = [pytest.mark.engine, pytest.mark.slow]
KEY = "key-of-the-test"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@contextlib.contextmanager
def vllm_server(model: Path, log: Path) -> Iterator[str]:
    """Serve a model with vLLM's OpenAI-compatible server. Yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (model / "template.jinja").write_text(TEMPLATE, encoding="utf-8")
    arguments = [
        *("--model", str(model), "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)),
        *("--max-model-len", "1024", "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "8"),
        *("--chat-template", str(model / "template.jinja"), "--max-num-batched-tokens", "1024"),
    ]
    # The key is given by the environment too: arguments can be read by every user of the machine.
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "VLLM_API_KEY": KEY, "VLLM_NO_USAGE_STATS": "1"}
    with open(log, "wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments],
            env=os.environ | settings,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            assert server.poll() is None, log.read_text(encoding="utf-8", errors="replace")[-3000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_responses_are_judged_by_a_model_behind_vllms_server(
    make_tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.pipeline.reduce.draw_figures", lambda *_: None)
    monkeypatch.setattr("orchestrator.pipeline.reduce.write_report", lambda *_: None)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    folder = store_sweep(
        tmp_path / "out", lambda node, _: abs(node.alpha) < 0.2, directions=1, steps=2, probes=("one", "two")
    )
    study = Study.open(folder.parents[1])
    stored = with_judges(StoredSweep.open(SweepFolder(study, folder)), ("keyword", "openai"))
    with vllm_server(make_tiny("llama", max_position_embeddings=1024), tmp_path / "server.log") as address:
        options = OpenAIConfig(base_url=address, model="tiny", key_env="JUDGE_KEY", max_tokens=4, retries=1)
        config = Config(judges=list(stored.sweep.judges), engine=EngineConfig(kind="dummy"), openai=options)
        assert judge_and_reduce(config, stored, Console(file=io.StringIO())) == 0
    summarized = stored.folder.read_summary()["judges"][1]
    assert sum(summarized["sets"][0]["verdicts"].values()) == 6
    answers = Study.open(study.out / summarized["answers"]).generations
    rows = [row for _, table in answers.rows(answers.stored()) for row in table.to_pylist()]
    assert len(rows) == 4 and all(0 < row["n_tokens"] <= 4 and row["n_prompt_tokens"] > 20 for row in rows)
    (part,) = answers.parts()
    assert (part.meta["engine"]["engine"], part.meta["engine"]["served_model"]) == ("openai", "tiny")
    assert len(summarized["unparsed_examples"]) > 0, "a random model gives no verdicts, and none is guessed"
