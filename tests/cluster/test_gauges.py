"""Prometheus reads a run's gauges from Ray's metrics endpoint, and the Grafana dashboard asks for gauges that exist."""

from __future__ import annotations

import json
import re
import socket
import time
import urllib.request
from pathlib import Path

import pytest

from orchestrator.execution import cluster
from orchestrator.execution.gauges import RunGauges
from tests.cluster.conftest import Event, Job, prepare_environment
from tests.contract.rules import ROOT

SAMPLE = re.compile(r"^ray_safety_landscape_(\w+)\{(.*)\} (\S+)$")


def scrape(port: int) -> dict[tuple[str, str | None], float]:
    """Return the values of our gauges by name and actor."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    samples = {}
    for match in filter(None, map(SAMPLE.match, lines)):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
        assert (tags["model"], tags["sweep"]) == ("tiny", "0123")
        samples[match[1], tags.get("actor")] = float(match[3])
    return samples


def test_the_endpoint_has_points_speed_failures_and_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_environment()
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "200")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = Job(tmp_path / "studies", steps=4, directions=1)
    with cluster.session(cluster.ClusterSpec(metrics_port=port)):
        gauges = RunGauges("tiny", "0123", len(job.missing))

        def observe(event: Event) -> None:
            gauges.observe(**event)

        job.run(actors=1, on_event=observe)
        gauges.observe("actor_died", slot=0, why="killed")
        deadline = time.monotonic() + 120
        while (read := scrape(port)).get(("restarts", None)) != 1.0 and time.monotonic() < deadline:
            time.sleep(0.2)
    tokens = sum(event["tokens"] for event in job.events_named("visit_done"))
    seconds = sum(event["seconds"] for event in job.events_named("visit_done"))
    assert (read["points_done", None], read["points_total", None]) == (5.0, 5.0)
    assert (read["failures", None], read["restarts", None], read["actors", None]) == (1.0, 1.0, 0.0)
    assert read["tokens_per_second", None] > 0
    assert (read["actor_points", "0"], read["actor_restarts", "0"], read["actor_failures", "0"]) == (5.0, 1.0, 1.0)
    assert read["actor_tokens_per_second", "0"] == pytest.approx(tokens / seconds)
    dashboard = (ROOT / "docs" / "grafana.json").read_text(encoding="utf-8")
    asked = set(re.findall(r"ray_safety_landscape_(\w+)", dashboard))
    assert asked <= {name for name, _ in read} and len(json.loads(dashboard)["panels"]) == 5
