"""The import rules, and a checker that reads source files without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
DRIVER = ("orchestrator/**",)
ALL = ("orchestrator/**", "workers/**")
RAY_AT_IMPORT = (
    "orchestrator/execution/dispatch.py",
    "orchestrator/execution/actor_pool.py",
    "orchestrator/execution/gauges.py",
)
PURE = (
    "orchestrator/sweep/directions/**",
    "orchestrator/sweep/points.py",
    "orchestrator/sweep/grid.py",
    "orchestrator/sweep/tasks.py",
)
NUMBERS = (
    "orchestrator/analysis/adaptive/**",
    "orchestrator/scoring/clusters.py",
    "orchestrator/scoring/counts.py",
    "orchestrator/analysis/calibration.py",
    "orchestrator/analysis/components.py",
    "orchestrator/analysis/curves.py",
    "orchestrator/analysis/landscape.py",
    "orchestrator/analysis/results/**",
    "orchestrator/analysis/line_errors.py",
    "orchestrator/analysis/summary/**",
    "orchestrator/analysis/visage.py",
    "orchestrator/analysis/basin.py",
    "orchestrator/analysis/intervals.py",
    "orchestrator/analysis/resampling.py",
    "orchestrator/analysis/agreement.py",
)
STORE = ("orchestrator.store",)
IO = ("os", "io", "pathlib", "shutil", "tempfile", "subprocess", "socket", "glob", "urllib", *STORE)


LAYERS: tuple[tuple[str, ...], ...] = (
    ("cli",),
    ("api",),
    ("pipeline",),
    ("report", "execution", "planning", "tracking"),
    ("analysis", "models"),
    ("scoring", "workers"),
    ("store", "prompts", "config"),
    ("sweep", "judges"),
    ("utils",),
)
"""The packages, top layer first. A package imports only from the layers below its own; packages of one layer do not
import each other."""

PENDING: dict[str, tuple[str, ...]] = {}
"""Upward imports that are still to be removed: package -> modules."""

PENDING_CIRCLES: tuple[set[str], ...] = ()
"""Import cycles that are still to be removed."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Forbid imports in a group of files.

    Files that match `where`, except those that match `but`, must not import a module in `forbids` or one of its
    submodules. Modules in `allows` are exceptions. If `when_imported` is True, only imports that run when the file
    itself is imported count, so imports in functions and under TYPE_CHECKING are allowed. `reason` states the rule in
    one sentence; it is the test id and ends the message for each violation.
    """

    reason: str
    where: tuple[str, ...]
    forbids: tuple[str, ...]
    but: tuple[str, ...] = ()
    allows: tuple[str, ...] = ()
    when_imported: bool = False

    def covers(self, file: str) -> bool:
        return _among(file, self.where) and not _among(file, self.but)

    def violations(self, file: str, source: str) -> list[str]:
        """Return `file:line: imports module: reason` for each import that breaks the rule."""
        if not self.covers(file):
            return []
        return [
            f"{file}:{line}: imports {module}: {self.reason}"
            for line, module, at_import in imports(source, file)
            if (at_import or not self.when_imported)
            and _below(module, self.forbids)
            and not _below(module, self.allows)
        ]


def _path(package: str) -> str:
    return package if package == "workers" else f"orchestrator.{package}"


def _files(package: str) -> tuple[str, ...]:
    folder = _path(package).replace(".", "/")
    return (f"{folder}/**", f"{folder}.py")


def _layer_rules() -> Iterator[Rule]:
    for i, layer in enumerate(LAYERS):
        above = [package for upper in LAYERS[: i + 1] for package in upper]
        for package in layer:
            yield Rule(
                reason=f"{package} imports only from the layers below it",
                where=_files(package),
                forbids=tuple(_path(other) for other in above if other != package),
                allows=PENDING.get(package, ()),
            )


RULES = (
    *_layer_rules(),
    Rule(
        reason="importing the driver loads no engine and no model library",
        where=DRIVER,
        but=RAY_AT_IMPORT,
        forbids=("torch", "vllm", "ray", "transformers", "peft", "trl", "datasets", "accelerate", "numba", "triton"),
        when_imported=True,
    ),
    Rule(
        reason="importing dispatch, the actor pool or the gauges loads ray and no other heavy library",
        where=RAY_AT_IMPORT,
        forbids=("torch", "vllm", "transformers", "peft", "trl", "datasets", "accelerate", "numba", "triton"),
        when_imported=True,
    ),
    Rule(
        reason="only cluster, dispatch, the actor pool, the gauges and the actor import ray",
        where=ALL,
        but=(
            *RAY_AT_IMPORT,
            "orchestrator/execution/cluster.py",
            "workers/actor.py",
        ),
        forbids=("ray",),
    ),
    Rule(
        reason="only the vLLM engine, its worker extension, its watch and the patches import vllm",
        where=ALL,
        but=(
            "workers/engines/vllm.py",
            "workers/engines/vllm_worker.py",
            "workers/engines/vllm_watch.py",
            "workers/engines/patches.py",
        ),
        forbids=("vllm",),
    ),
    Rule(reason="only the workers import torch", where=DRIVER, forbids=("torch", "triton", "numba")),
    Rule(
        reason="the workers import only sweep, store and utils from the driver",
        where=("workers/**",),
        forbids=("orchestrator",),
        allows=("orchestrator.sweep", "orchestrator.store", "orchestrator.utils"),
    ),
    Rule(reason="directions, points, grids and tasks do no input or output", where=PURE, forbids=(*IO, "workers")),
    Rule(reason="the modules that compute results do no input or output", where=NUMBERS, forbids=(*IO, "workers")),
    Rule(reason="no class named by a user or a study is instantiated", where=ALL, forbids=("hydra.utils",)),
    Rule(reason="stored data never contains code", where=ALL, forbids=("pickle", "dill", "shelve", "marshal")),
)


def imports(source: str, file: str) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, module, whether it runs when the file is imported) for each import; `from a import b` gives a.b."""
    yield from _imports(ast.parse(source, file), PurePosixPath(file).parent.parts, True)


def _imports(node: ast.AST, package: tuple[str, ...], at_import: bool) -> Iterator[tuple[int, str, bool]]:
    for child in ast.iter_child_nodes(node):
        runs_at_import = at_import
        if isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name, runs_at_import) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            start = package[: len(package) + 1 - child.level] if child.level else ()
            base = ".".join([*start, *(child.module.split(".") if child.module else ())])
            yield from ((child.lineno, f"{base}.{alias.name}", runs_at_import) for alias in child.names)
        elif isinstance(child, ast.Call):
            called = ast.unparse(child.func)
            if called.rpartition(".")[2] in ("import_module", "__import__") and child.args:
                name = child.args[0]
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield child.lineno, name.value, runs_at_import
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            runs_at_import = False
        elif isinstance(child, ast.If) and ast.unparse(child.test).rpartition(".")[2] == "TYPE_CHECKING":
            for statement in child.body:
                yield from _imports(ast.Module([statement], []), package, False)
            child = ast.Module(child.orelse, [])
        yield from _imports(child, package, runs_at_import)


def _below(module: str, roots: tuple[str, ...]) -> bool:
    return any(module == root or module.startswith(f"{root}.") for root in roots)


def _among(file: str, patterns: tuple[str, ...]) -> bool:
    return any(file == p or (p.endswith("/**") and file.startswith(p[:-2])) for p in patterns)


def sources() -> dict[str, str]:
    """Return the text of every source file of the two packages, by its path relative to the repository root."""
    files = sorted(p for package in ("orchestrator", "workers") for p in (ROOT / package).rglob("*.py"))
    return {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in files}


def module_name(file: str) -> str:
    """Return the dotted name of a source file: `orchestrator/store/__init__.py` is `orchestrator.store`."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def circles(files: dict[str, str]) -> list[set[str]]:
    """Return the import cycles: strongly connected components of two or more modules."""
    names = {module_name(file) for file in files}
    graph: dict[str, set[str]] = {}
    for file, source in files.items():
        imported_modules = graph.setdefault(module_name(file), set())
        for _, imported, _ in imports(source, file):
            parts = imported.split(".")
            candidates = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
            target = next((name for name in candidates if name in names), None)
            if target is not None and target != module_name(file):
                imported_modules.add(target)
    return [group for group in _components(graph) if len(group) > 1]


def _components(graph: dict[str, set[str]]) -> list[set[str]]:
    reached = {node: _reachable(graph, node) for node in graph}
    groups: list[set[str]] = []
    for node in graph:
        if not any(node in group for group in groups):
            groups.append({node} | {other for other in reached[node] if node in reached[other]})
    return groups


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        for node in graph[waiting.pop()] - reached:
            reached.add(node)
            waiting.append(node)
    return reached
