"""Test that the container files pass their linters, pin versions, run without root, open no port and require a token.

No container engine is needed: images install their content with scripts/setup.sh, which `make` also runs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.rules import ROOT

DOCKER = ROOT / "docker"
IMAGES = sorted(DOCKER.glob("Dockerfile.*"))
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), *sorted(DOCKER.glob("*.sh")), ROOT / ".ci" / "run"]
LOCK = (ROOT / "scripts" / "locks" / "cpu.txt").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
CLAIM, POLICY, JOB = yaml.safe_load_all((DOCKER / "rayjob.yaml").read_text())
CLUSTER = JOB["spec"]["rayClusterSpec"]
# Fields of a RayJob and its parts in KubeRay's API that are used here or may be.
KUBERAY_FIELDS = {
    "spec": "entrypoint submissionMode backoffLimit activeDeadlineSeconds shutdownAfterJobFinishes "
    "ttlSecondsAfterFinished suspend submitterPodTemplate submitterConfig entrypointNumCpus rayClusterSpec",
    "cluster": "rayVersion authOptions headGroupSpec workerGroupSpecs enableInTreeAutoscaling",
    "head": "serviceType headService enableIngress rayStartParams template",
    "group": "groupName replicas minReplicas maxReplicas numOfHosts idleTimeoutSeconds rayStartParams template",
}


def tool(name: str) -> str:
    """Return the path of a linter, next to this Python or on the PATH; skip the test if it is not installed."""
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not path:
        pytest.skip(f"{name} is not installed (extra `dev`)")
    return path


def lint(*command: str | Path, text: str | None = None) -> tuple[int, str]:
    completed = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return completed.returncode, completed.stdout + completed.stderr


def templates() -> Iterator[dict[str, Any]]:
    yield CLUSTER["headGroupSpec"]["template"]
    yield from (group["template"] for group in CLUSTER["workerGroupSpecs"])


def kubernetes_accepts(document: dict[str, Any]) -> None:
    """Raise ValidationError if Kubernetes' own schema refuses the document; unknown fields are refused too."""
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed (extra `dev`)")
    validate.validate(document, validate.latest_version(), strict=True)


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_hadolint_reports_nothing(path: Path) -> None:
    assert lint(tool("hadolint"), path) == (0, "")


def test_hadolint_reports_a_wrong_dockerfile() -> None:
    code, output = lint(tool("hadolint"), "-", text="FROM python\nRUN cd /tmp && pip install x\n")
    assert code == 1
    assert "DL3006" in output


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_reports_nothing(path: Path) -> None:
    assert lint(tool("shellcheck"), path) == (0, "")
    assert path.stat().st_mode & 0o111, "not executable"


def test_shellcheck_reports_a_wrong_script() -> None:
    assert lint(tool("shellcheck"), "-", text="#!/bin/bash\nrm $1\n")[0] == 1


def test_compose_file_follows_its_schema(tmp_path: Path) -> None:
    check = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    code, output = lint(*check, DOCKER / "compose.yaml")
    assert code == 0, output
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(yaml.safe_dump(COMPOSE | {"services": {"head": {"imagine": "x"}}}))
    assert lint(*check, wrong)[0] == 1


@pytest.mark.parametrize("document", [CLAIM, POLICY], ids=["claim", "policy"])
def test_kubernetes_accepts_volume_and_policy(document: dict[str, Any]) -> None:
    kubernetes_accepts(document)


def test_kubernetes_accepts_the_pods_and_refuses_unknown_fields() -> None:
    for template in templates():
        pods = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
        kubernetes_accepts(pods)
        with pytest.raises(Exception, match="imagine"):
            kubernetes_accepts(pods | {"template": template | {"imagine": 1}})


def test_kuberay_has_every_field_of_the_job() -> None:
    parts = [("spec", JOB["spec"]), ("cluster", CLUSTER), ("head", CLUSTER["headGroupSpec"])]
    for kind, part in [*parts, *(("group", group) for group in CLUSTER["workerGroupSpecs"])]:
        assert set(part) <= set(KUBERAY_FIELDS[kind].split()), kind
        for option, value in part.get("rayStartParams", {}).items():
            assert isinstance(value, str), f"{option}: KubeRay takes strings only"
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert JOB["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode")


def test_images_are_pinned_and_not_root() -> None:
    for path in IMAGES:
        lines = path.read_text().splitlines()
        (base,) = [line for line in lines if line.startswith("ARG BASE=")]
        assert re.fullmatch(r"ARG BASE=[\w/.-]+:\d+\.\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}", base), base
        stages = [line for line in lines if line.startswith("FROM ")]
        assert stages == ["FROM ${BASE} AS base", "FROM base AS build", "FROM base"]
        assert [line for line in lines if line.startswith("USER ")] == ["USER 1000:1000"]
        assert "VOLUME /data" in lines
        assert not [line for line in lines if line.startswith("EXPOSE")]


def test_images_install_with_the_setup_script() -> None:
    for path in IMAGES:
        text, engine = path.read_text(), path.suffix[1:]
        assert re.search(rf"&& ENGINE={engine} .*scripts/setup\.sh \\\n", text)
        assert "pip install" not in text, "packages must be installed by scripts/setup.sh only"


def test_ray_opens_no_port_and_requires_a_token() -> None:
    for name, service in COMPOSE["services"].items():
        assert "ports" not in service, name
        assert service.get("network_mode") is None, name
        environment = service["environment"]
        assert environment["RAY_AUTH_MODE"] == "token", name
        assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token", name
        assert service["secrets"] == ["ray_token"], name
    assert CLUSTER["authOptions"] == {"mode": "token"}
    assert CLUSTER["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert POLICY["spec"]["policyTypes"] == ["Ingress"]
    assert all(rule["from"] for rule in POLICY["spec"]["ingress"]), "a rule without `from` lets everybody in"
    selected = POLICY["spec"]["podSelector"]["matchLabels"].items()
    for template in templates():
        assert selected <= template["metadata"]["labels"].items(), "the policy does not select this pod"


def test_studies_and_weights_are_on_the_volume_and_pods_are_not_root() -> None:
    assert "out=/data/" in JOB["spec"]["entrypoint"]
    assert JOB["spec"]["backoffLimit"] > 0
    for template in templates():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        claim = {"claimName": CLAIM["metadata"]["name"]}
        (volume,) = [v["name"] for v in pod["volumes"] if v.get("persistentVolumeClaim") == claim]
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {"name": volume, "mountPath": "/data"} in container["volumeMounts"]
    assert all(service["volumes"] == ["data:/data"] for service in COMPOSE["services"].values())
    assert COMPOSE["services"]["worker"]["deploy"]["replicas"] == 2


def test_versions_equal_those_of_the_project() -> None:
    assert re.search(rf"^ray(\[\w+\])?=={re.escape(CLUSTER['rayVersion'])} ", LOCK, re.MULTILINE)
    images = {c["image"] for t in templates() for c in t["spec"]["containers"]}
    images |= {service["image"] for service in COMPOSE["services"].values()}
    assert {image.split(":")[1].rpartition("-")[0] for image in images} == {PROJECT["version"]}
