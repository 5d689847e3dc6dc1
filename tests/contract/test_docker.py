"""The container files pass their linters and keep their promises: pinned, not root, no open port, a token everywhere.

No container engine is needed: what an image would hold is installed by scripts/setup.sh, which `make` runs.
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
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
CLAIM, POLICY, JOB = yaml.safe_load_all((DOCKER / "rayjob.yaml").read_text())
CLUSTER = JOB["spec"]["rayClusterSpec"]
# What KubeRay's API knows of a RayJob and its parts, as far as it is of use here.
KNOWN = {
    "spec": "entrypoint submissionMode backoffLimit activeDeadlineSeconds shutdownAfterJobFinishes "
    "ttlSecondsAfterFinished suspend submitterPodTemplate submitterConfig entrypointNumCpus rayClusterSpec",
    "cluster": "rayVersion authOptions headGroupSpec workerGroupSpecs enableInTreeAutoscaling",
    "head": "serviceType headService enableIngress rayStartParams template",
    "group": "groupName replicas minReplicas maxReplicas numOfHosts idleTimeoutSeconds rayStartParams template",
}


def tool(name: str) -> str:
    """A linter of the `dev` extra, beside this Python or on the PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed (extra `dev`)")
    return found


def lint(*command: str | Path, text: str | None = None) -> tuple[int, str]:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def templates() -> Iterator[dict[str, Any]]:
    yield CLUSTER["headGroupSpec"]["template"]
    yield from (group["template"] for group in CLUSTER["workerGroupSpecs"])


def kubernetes_accepts(document: dict[str, Any]) -> None:
    """Raises ValidationError where Kubernetes' own schema would refuse it, unknown fields included."""
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed (extra `dev`)")
    validate.validate(document, validate.latest_version(), strict=True)


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_hadolint_has_no_complaint(path: Path) -> None:
    assert lint(tool("hadolint"), path) == (0, "")


def test_hadolint_complains_where_it_should() -> None:
    code, told = lint(tool("hadolint"), "-", text="FROM python\nRUN cd /tmp && pip install x\n")
    assert code == 1
    assert "DL3006" in told


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_no_complaint(path: Path) -> None:
    assert lint(tool("shellcheck"), path) == (0, "")
    assert path.stat().st_mode & 0o111, "not executable"


def test_shellcheck_complains_where_it_should() -> None:
    assert lint(tool("shellcheck"), "-", text="#!/bin/bash\nrm $1\n")[0] == 1


def test_compose_is_what_its_specification_says(tmp_path: Path) -> None:
    check = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    code, told = lint(*check, DOCKER / "compose.yaml")
    assert code == 0, told
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(yaml.safe_dump(COMPOSE | {"services": {"head": {"imagine": "x"}}}))
    assert lint(*check, wrong)[0] == 1


@pytest.mark.parametrize("document", [CLAIM, POLICY], ids=["claim", "policy"])
def test_kubernetes_accepts_volume_and_policy(document: dict[str, Any]) -> None:
    kubernetes_accepts(document)


def test_kubernetes_accepts_the_pods() -> None:
    for template in templates():
        pods = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
        kubernetes_accepts(pods)
        with pytest.raises(Exception, match="imagine"):
            kubernetes_accepts(pods | {"template": template | {"imagine": 1}})


def test_kuberay_knows_every_field() -> None:
    parts = [("spec", JOB["spec"]), ("cluster", CLUSTER), ("head", CLUSTER["headGroupSpec"])]
    for kind, part in [*parts, *(("group", group) for group in CLUSTER["workerGroupSpecs"])]:
        assert set(part) <= set(KNOWN[kind].split()), kind
        for option, value in part.get("rayStartParams", {}).items():
            assert isinstance(value, str), f"{option}: KubeRay takes strings only"
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert JOB["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode")


def test_images_are_pinned_and_not_root() -> None:
    for path in IMAGES:
        lines = path.read_text().splitlines()
        bases = [line for line in lines if line.startswith("FROM ")]
        assert bases
        assert all(re.fullmatch(r"FROM [\w/.-]+:\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?", b) for b in bases), bases
        assert [line for line in lines if line.startswith("USER ")] == ["USER 1000:1000"]
        assert "VOLUME /data" in lines
        assert not [line for line in lines if line.startswith("EXPOSE")]


def test_images_install_as_the_set_up_does() -> None:
    for path in IMAGES:
        text, engine = path.read_text(), path.suffix[1:]
        assert re.search(rf"&& ENGINE={engine} .*scripts/setup\.sh \\\n", text)
        assert "pip install" not in text, "a second place that says what is installed"


def test_ray_is_private_and_asks_for_a_token() -> None:
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
        assert selected <= template["metadata"]["labels"].items(), "the policy passes this pod by"


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


def test_versions_are_the_projects() -> None:
    assert f"ray[default]=={CLUSTER['rayVersion']}" in PROJECT["dependencies"]
    images = {c["image"] for t in templates() for c in t["spec"]["containers"]}
    images |= {service["image"] for service in COMPOSE["services"].values()}
    assert {image.split(":")[1].rpartition("-")[0] for image in images} == {PROJECT["version"]}
