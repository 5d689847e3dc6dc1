"""Presets of Hugging Face data sets, read from a server on loopback that serves each in its original layout.

One process fetches all of them, because `datasets` takes seconds to import. It reads HF_ENDPOINT when it starts.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from orchestrator.config.schema import ProbesConfig
from orchestrator.prompts import hub_datasets
from orchestrator.prompts.hub_datasets import QUIET_DATASETS
from orchestrator.prompts.probe_sets import load_probe_set
from orchestrator.utils.errors import UserError
from orchestrator.utils.paths import CONF_DIR
from tests.unit.loopback_hub import LoopbackHub
from tests.unit.subprocesses import Exchange, serving_module

pytestmark = pytest.mark.thorough

PRESETS = CONF_DIR / "probes"
PARQUET = "{}-00000-of-00001.parquet"


def preset(name: str, **changes: Any) -> ProbesConfig:
    loaded = OmegaConf.merge(OmegaConf.structured(ProbesConfig), OmegaConf.load(PRESETS / f"{name}.yaml"))
    conf: Any = OmegaConf.to_object(OmegaConf.merge(loaded, changes))
    assert isinstance(conf, ProbesConfig)
    return conf


# The files of each repository in the layout of the hub, with a few harmless rows.

Table = Mapping[str, list[Any]]


def readme(configs: Mapping[str, Mapping[str, str]]) -> str:
    """Return a data card header that maps files to splits and subsets."""
    listed = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files.items()]}
        for name, files in configs.items()
    ]
    return f"---\nconfigs: {json.dumps(listed)}\n---\n# A data set\n"


ASKED = ["How do I bake bread?", "How do I knit a sock?", "How do I fold a boat?"]
REPOSITORIES: dict[str, tuple[str, dict[str, Table | str]]] = {
    "walledai/AdvBench": (
        "9d4730540082fa4017450b65ca1c0e1d8d30446e",
        {
            "README.md": readme({"default": {"train": "data/train-*"}}),
            f"data/{PARQUET.format('train')}": {"prompt": ASKED, "target": ["Sure, here is how"] * 3},
        },
    ),
    "walledai/HarmBench": (
        "a777536ffc60bc8317b06380da5b2acf8d6491fd",
        {
            "README.md": readme(
                {name: {"train": f"{name}/train-*"} for name in ("contextual", "copyright", "standard")}
            ),
            f"contextual/{PARQUET.format('train')}": {"prompt": ["x"], "context": ["y"], "category": ["z"]},
            f"copyright/{PARQUET.format('train')}": {"prompt": ["x"], "tags": [["y"]]},
            f"standard/{PARQUET.format('train')}": {"prompt": ASKED, "category": ["a", "b", "b"]},
        },
    ),
    "JailbreakBench/JBB-Behaviors": (
        "886acc352a31533ffbcf4ef22c744658688086fc",
        {
            "README.md": readme(
                {
                    "behaviors": {"harmful": "data/harmful-behaviors.csv", "benign": "data/benign-behaviors.csv"},
                    "judge_comparison": {"test": "data/judge-comparison.csv"},
                }
            ),
            "data/harmful-behaviors.csv": "Index,Goal,Target,Behavior,Category,Source\n"
            + "".join(f"{i},{text},Sure,b{i},food,Original\n" for i, text in enumerate(ASKED)),
            "data/benign-behaviors.csv": "Index,Goal,Target,Behavior,Category,Source\n"
            "0,What is tea?,Tea,b0,food,Original\n",
            "data/judge-comparison.csv": "Index,goal\n0,x\n",
        },
    ),
    "walledai/StrongREJECT": (
        "df54272b395ce9e584d2f8140519935425d8549f",
        {
            "README.md": readme({"default": {"train": "data/train-*"}}),
            f"data/{PARQUET.format('train')}": {"prompt": ASKED, "category": ["a", "b", "c"], "source": ["s"] * 3},
        },
    ),
    "walledai/XSTest": (
        "f1d713187c61b6ae64e602d74f0b3d812cc2e8e8",
        {
            "README.md": readme({"default": {"test": "data/test-*"}}),
            f"data/{PARQUET.format('test')}": {
                "prompt": ASKED,
                "focus": ["bake", "knit", "fold"],
                "type": ["homonyms", "contrast_homonyms", "homonyms"],
                "note": ["", "", ""],
                "label": ["safe", "unsafe", "safe"],
            },
        },
    ),
    "cais/mmlu": (
        "c30699e8356da336a370243923dbaf21066bb9fe",
        {
            "README.md": readme(
                {"all": {"test": "all/test-*", "dev": "all/dev-*"}, "anatomy": {"test": "anatomy/test-*"}}
            ),
            f"all/{PARQUET.format('dev')}": {
                "question": [f"{i} and {i}?" for i in range(6)],
                "subject": ["sums"] * 6,
                "choices": [[str(2 * i), "91", "92", "93"] for i in range(6)],
                "answer": [0] * 6,
            },
            f"all/{PARQUET.format('test')}": {
                "question": ["Two and two?", "Three and three?"],
                "subject": ["sums", "sums"],
                "choices": [["3", "4", "5", "6"], ["6", "7", "8", "9"]],
                "answer": [1, 0],
            },
            f"anatomy/{PARQUET.format('test')}": {
                "question": ["x"],
                "subject": ["y"],
                "choices": [["z"]],
                "answer": [0],
            },
        },
    ),
}


class DatasetHub(LoopbackHub):
    """Serves repositories of data sets at one commit each."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.files: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, str] = {}
        self.gated: set[str] = set()
        for name, (commit, files) in REPOSITORIES.items():
            self.commits[name], self.files[name] = commit, {}
            for path, content in files.items():
                if not isinstance(content, str):
                    target = folder / hashlib.sha1(f"{name}{path}".encode()).hexdigest()
                    pq.write_table(pa.table(dict(content)), target)
                    self.files[name][path] = target.read_bytes()
                else:
                    self.files[name][path] = content.encode()

    def answer(self, request: http.server.BaseHTTPRequestHandler, path: str, body: bytes) -> None:
        match = re.match(r"(/api)?/datasets/([^/]+/[^/]+)(?:/(.*))?$", path)
        name = match[2] if match else ""
        if match is None or name not in self.files:
            return self.send(request, 401 if match else 404, {"X-Error-Code": "RepoNotFound"})
        files, commit, rest = self.files[name], self.commits[name], match[3] or ""
        action, _, rest = rest.partition("/")
        revision, _, file = rest.partition("/")
        if action and revision not in (commit, "main"):
            return self.send(request, 404, {"X-Error-Code": "RevisionNotFound"})
        if action == "resolve":
            if name in self.gated:
                return self.send(request, 403, {"X-Error-Code": "GatedRepo"})
            if file not in files:
                return self.send(request, 404, {"X-Error-Code": "EntryNotFound"})
            etag = hashlib.sha1(files[file]).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit}
            return self.send(request, 200, headers, files[file])
        folders = {"/".join(path.split("/")[:i]) for path in files for i in range(1, path.count("/") + 1)}
        entries = [
            *({"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)),
            *(
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in files.items()
            ),
        ]
        if action == "tree":
            below = f"{file.rstrip('/')}/" if file else ""
            deep = "recursive=true" in request.path.lower()
            listed_entries = [
                e for e in entries if e["path"].startswith(below) and (deep or "/" not in e["path"][len(below) :])
            ]
            return self.send(request, 200, {}, listed_entries)
        if action == "paths-info":
            requested = json.loads(body)["paths"] if body.startswith(b"{") else []
            requested = requested if isinstance(requested, list) else [requested]
            return self.send(request, 200, {}, [e for e in entries if e["path"] in requested])
        siblings = [{"rfilename": path} for path in files]
        self.send(request, 200, {}, {"id": name, "sha": commit, "siblings": siblings, "private": False, "tags": []})


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatasetHub]:
    server = DatasetHub(tmp_path_factory.mktemp("repositories"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def process(hub: DatasetHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exchange]:
    """The subprocess, reused for many requests."""
    removed = ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    inherited = {name: value for name, value in os.environ.items() if name not in removed}
    overrides = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path_factory.mktemp("home")),
        "HF_HUB_DISABLE_XET": "1",
    }
    with serving_module("orchestrator.prompts.hub_datasets", inherited | overrides | QUIET_DATASETS) as exchange:
        yield exchange


@pytest.fixture
def count_requests(process: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Send all requests to the shared process, with an empty cache. The fixture's value returns their number."""
    requests = []

    def exchange(request: dict[str, Any]) -> Any:
        requests.append(request)
        return process(request)

    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_datasets, "_exchange", exchange)
    return lambda: len(requests)


EXPECTED = {  # name: (group, prompts, categories, targets)
    "advbench": ("harmful", ASKED, ["", "", ""], ["Sure, here is how"] * 3),
    "harmbench": ("harmful", ASKED, ["a", "b", "b"], [None] * 3),
    "jailbreakbench": ("harmful", ASKED, ["food"] * 3, ["Sure"] * 3),
    "jailbreakbench_benign": ("benign", ["What is tea?"], ["food"], ["Tea"]),
    "strongreject": ("harmful", ASKED, ["a", "b", "c"], [None] * 3),
    "xstest": ("benign", ASKED[::2], ["homonyms"] * 2, [None] * 2),
    "xstest_unsafe": ("harmful", ASKED[1:2], ["contrast_homonyms"], [None]),
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_each_preset_reads_its_data_set(name: str, hub: DatasetHub, count_requests: Callable[[], int]) -> None:
    conf = preset(name)
    group, texts, categories, targets = EXPECTED[name]
    loaded = load_probe_set(conf)
    assert (loaded.name, loaded.group) == (name, group)
    assert [prompt.text for prompt in loaded.prompts] == texts
    assert [prompt.category for prompt in loaded.prompts] == categories
    assert [prompt.target for prompt in loaded.prompts] == targets
    assert conf.hub is not None and loaded.origin == f"{conf.hub}@{hub.commits[conf.hub]}"
    before = hub.requests.total()
    assert load_probe_set(conf) == loaded
    assert count_requests() == 1 and hub.requests.total() == before  # a cached data set causes no request


def test_a_branch_is_accepted_and_its_commit_recorded(hub: DatasetHub, count_requests: Callable[[], int]) -> None:
    loaded = load_probe_set(preset("harmbench", revision="main"))
    assert loaded.origin == f"walledai/HarmBench@{hub.commits['walledai/HarmBench']}"


@pytest.mark.parametrize(("name", "set_name"), [("mmlu", "mmlu_5shot"), ("mmlu_letters", "mmlu_letters")])
def test_mmlu_has_choices_and_correct_answers(name: str, set_name: str, count_requests: Callable[[], int]) -> None:
    loaded = load_probe_set(preset(name))
    assert (loaded.name, loaded.group, loaded.letters) == (set_name, "capability", ("A", "B", "C", "D"))
    assert [(prompt.choices, prompt.target) for prompt in loaded.prompts] == [
        (("3", "4", "5", "6"), "B"),
        (("6", "7", "8", "9"), "A"),
    ]
    assert "Two and two?" in loaded.prompts[0].text


def test_mmlus_examples_are_the_first_five_of_its_dev_split(count_requests: Callable[[], int]) -> None:
    loaded = load_probe_set(preset("mmlu"))
    assert loaded.few_shot is not None and list(loaded.few_shot.examples) == ["sums"]
    examples = loaded.few_shot.examples["sums"]
    assert [asked.partition("?")[0] for asked, _ in examples] == [f"{i} and {i}" for i in range(5)]
    assert {letter for _, letter in examples} == {"A"}
    assert load_probe_set(preset("mmlu_letters")).few_shot is None
    error = refused(preset("mmlu", shots=7))
    assert (error.field, error.remedy) == ("probes.shots", "split dev has only 6 solved examples of sums: lower it")
    assert refused(preset("mmlu", shots_split="train")).field == "probes.split"


def test_every_hub_preset_is_covered_and_pinned() -> None:
    names = sorted(path.stem for path in PRESETS.glob("*.yaml") if preset(path.stem).hub)
    assert names == sorted([*EXPECTED, "mmlu", "mmlu_letters"])
    for name in names:
        conf = preset(name)
        assert conf.hub in REPOSITORIES and conf.license and conf.source
        assert re.fullmatch(r"[0-9a-f]{40}", conf.revision or ""), "a moving revision is another data set tomorrow"


def refused(conf: ProbesConfig) -> UserError:
    with pytest.raises(UserError) as error:
        load_probe_set(conf)
    return error.value


def test_each_mistake_is_reported_in_one_sentence(hub: DatasetHub, count_requests: Callable[[], int]) -> None:
    error = refused(preset("jailbreakbench", column="goal_text"))
    assert error.field == "probes.column" and "it has Index, Goal, Target" in error.remedy
    assert refused(preset("jailbreakbench", category="Kind")).field == "probes.category"
    error = refused(preset("harmbench", subset="standrad"))
    assert error.field == "probes.subset" and "standard" in error.remedy
    error = refused(preset("harmbench", split="test"))
    assert error.field == "probes.split" and "it has train" in error.remedy
    error = refused(preset("xstest", where="lable=safe"))
    assert error.field == "probes.where" and "label" in error.remedy
    assert refused(preset("xstest", where="label=none")).remedy.startswith("no row of walledai/XSTest")
    assert refused(preset("advbench", revision="f" * 40)).field == "probes.revision"
    error = refused(preset("advbench", hub="walledai/NoBench"))
    assert error.field == "probes.hub" and "does not exist at" in error.remedy and "probes.path=FILE" in error.remedy
    assert not [path for path in Path(os.environ["SAFETY_LANDSCAPE_CACHE"]).rglob("*") if ".tmp" in path.name]


def test_a_gated_data_set_is_refused_with_its_terms(
    hub: DatasetHub, count_requests: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "gated", {"walledai/StrongREJECT"})
    monkeypatch.setitem(hub.commits, "walledai/StrongREJECT", "e" * 40)  # the Hugging Face cache holds none of it
    error = refused(preset("strongreject", revision="e" * 40))
    assert (error.field, error.value) == ("probes.hub", "walledai/StrongREJECT")
    assert "is gated: accept its terms at" in error.remedy and "HF_TOKEN" in error.remedy
    assert "probes.path=FILE" in error.remedy and "\n" not in error.remedy


def test_an_unreachable_hub_is_reported_with_alternatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in a separate process, which reads another endpoint."""
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    error = refused(preset("mmlu"))
    assert error.field == "probes.hub" and "is not on this machine and could not be fetched (" in error.remedy
    assert "connect to http://127.0.0.1:9 (HF_ENDPOINT names a mirror)" in error.remedy


def test_a_user_can_add_a_data_set_with_one_preset_file(count_requests: Callable[[], int], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"name: mine\nhub: walledai/StrongREJECT\nrevision: {'df54272b395ce9e584d2f8140519935425d8549f'}\n"
    )
    conf: Any = OmegaConf.to_object(
        OmegaConf.merge(OmegaConf.structured(ProbesConfig), OmegaConf.load(tmp_path / "mine.yaml"))
    )
    # The column is found as the one usual name that the file has.
    assert [prompt.text for prompt in load_probe_set(conf).prompts] == ASKED
