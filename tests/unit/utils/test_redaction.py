"""Stored error messages name neither folders nor hosts, and keep what explains the error."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.utils.redaction import redact

PROJECT = Path(__file__).parents[3]


@pytest.mark.parametrize(("text", "expected"), [
    ('File "/opt/a b/venv/lib/python3.12/site-packages/vllm/v1/core.py", line 5', 'File "vllm/v1/core.py", line 5'),
    ('File "/usr/lib/python3.12/json/decoder.py", line 3', 'File "json/decoder.py", line 3'),
    (f'File "{PROJECT}/workers/actor.py", line 7', 'File "workers/actor.py", line 7'),
    ("/data/ann/model/config.json: no such file", ".../config.json: no such file"),
    ("cannot open '/data/my models/x y.json' (denied)", "cannot open '.../x y.json' (denied)"),
    ("cache ~/.cache/x/ and /scratch/ann/z, (/a/b)", "cache .../x and .../z, (.../b)"),
    ("ray::Actor.visit() (pid=5, ip=10.1.2.3, repr=<A>)", "ray::Actor.visit() (pid=5, ip=ADDRESS, repr=<A>)"),
    ("box7:8080, a box7 and box70, x.box7y", "HOST:8080, a HOST and box70, x.box7y"),
    ("127.0.0.1, https://a.b/c/d, 3/4, and/or, torch 2.13.0, / and /tmp", None),
    ("CUDA out of memory. Tried to allocate 2.00 GiB", None),
])  # fmt: skip
def test_folders_hosts_and_addresses_are_removed(text: str, expected: str | None) -> None:
    assert redact(text, ["box7", "localhost", ""]) == (text if expected is None else expected)
