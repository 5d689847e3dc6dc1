"""Who may import what: the rules, and a checker that reads source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
DRIVER = ("orchestrator/**",)
ALL = ("orchestrator/**", "workers/**")
RAY_AT_IMPORT = ("orchestrator/execution/dispatch.py", "orchestrator/execution/actor_pool.py")
PURE = ("orchestrator/sweep/points.py", "orchestrator/sweep/grid.py", "orchestrator/sweep/tasks.py")
NUMBERS = (
    "orchestrator/scoring/counts.py",
    "orchestrator/analysis/landscape.py",
    "orchestrator/analysis/results.py",
    "orchestrator/analysis/summary.py",
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
    ("report", "execution", "planning"),
    ("analysis", "models"),
    ("scoring", "workers"),
    ("store", "prompts", "config"),
    ("sweep", "judges"),
    ("utils",),
)
"""The packages, top layer first. A package imports only from the layers below its own; packages of one layer do not
import each other."""

PENDING: dict[str, tuple[str, ...]] = {}
"""Upward imports that still have to go: package -> modules."""

PENDING_CIRCLES: tuple[set[str], ...] = ()
"""Circles of modules that still have to go."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """In the files of `where`, but for those of `but`, no module of `forbids` (or below it) is imported.

    `allows` takes modules out of what is forbidden. `when_imported` looks only at what happens when the file is
    imported: not into functions, not under TYPE_CHECKING.
    """

    says: str
    where: tuple[str, ...]
    forbids: tuple[str, ...]
    but: tuple[str, ...] = ()
    allows: tuple[str, ...] = ()
    when_imported: bool = False

    def covers(self, file: str) -> bool:
        return _among(file, self.where) and not _among(file, self.but)

    def violations(self, file: str, source: str) -> list[str]:
        """`file:line: imports x: what the rule says`, one for each import that breaks the rule."""
        if not self.covers(file):
            return []
        return [
            f"{file}:{line}: imports {module}: {self.says}"
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
                says=f"{package} imports only from the layers below it",
                where=_files(package),
                forbids=tuple(_path(other) for other in above if other != package),
                allows=PENDING.get(package, ()),
            )


RULES = (
    *_layer_rules(),
    Rule(
        says="the driver loads no engine and no model library when it is imported",
        where=DRIVER,
        but=RAY_AT_IMPORT,
        forbids=("torch", "vllm", "ray", "transformers", "peft", "trl", "datasets", "accelerate", "numba", "triton"),
        when_imported=True,
    ),
    Rule(
        says="dispatch and its actor pool load ray when they are imported, and no other heavy library",
        where=RAY_AT_IMPORT,
        forbids=("torch", "vllm", "transformers", "peft", "trl", "datasets", "accelerate", "numba", "triton"),
        when_imported=True,
    ),
    Rule(
        says="ray is for cluster, dispatch, the actor pool and the actor",
        where=ALL,
        but=(
            *RAY_AT_IMPORT,
            "orchestrator/execution/cluster.py",
            "workers/actor.py",
        ),
        forbids=("ray",),
    ),
    Rule(
        says="vllm is for the engine, its worker extension and the patches",
        where=ALL,
        but=("workers/engines/vllm.py", "workers/engines/vllm_worker.py", "workers/engines/patches.py"),
        forbids=("vllm",),
    ),
    Rule(says="torch is for the workers", where=DRIVER, forbids=("torch", "triton", "numba")),
    Rule(
        says="workers import of the driver only sweep, store and utils",
        where=("workers/**",),
        forbids=("orchestrator",),
        allows=("orchestrator.sweep", "orchestrator.store", "orchestrator.utils"),
    ),
    Rule(says="points, sweeps and tasks are pure values: no input or output", where=PURE, forbids=(*IO, "workers")),
    Rule(says="numbers are pure: no input or output", where=NUMBERS, forbids=(*IO, "workers")),
    Rule(says="nothing that a user or a study supplies is ever instantiated", where=ALL, forbids=("hydra.utils",)),
    Rule(says="what is stored is never code", where=ALL, forbids=("pickle", "dill", "shelve", "marshal")),
)


def imports(source: str, file: str) -> Iterator[tuple[int, str, bool]]:
    """(line, module, whether importing the file imports it) for each import; `from a import b` gives a.b."""
    yield from _imports(ast.parse(source, file), PurePosixPath(file).parent.parts, True)


def _imports(node: ast.AST, package: tuple[str, ...], at_import: bool) -> Iterator[tuple[int, str, bool]]:
    for child in ast.iter_child_nodes(node):
        now = at_import
        if isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name, now) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            start = package[: len(package) + 1 - child.level] if child.level else ()
            base = ".".join([*start, *(child.module.split(".") if child.module else ())])
            yield from ((child.lineno, f"{base}.{alias.name}", now) for alias in child.names)
        elif isinstance(child, ast.Call):
            called = ast.unparse(child.func)
            if called.rpartition(".")[2] in ("import_module", "__import__") and child.args:
                name = child.args[0]
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield child.lineno, name.value, now
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            now = False
        elif isinstance(child, ast.If) and ast.unparse(child.test).rpartition(".")[2] == "TYPE_CHECKING":
            for statement in child.body:
                yield from _imports(ast.Module([statement], []), package, False)
            child = ast.Module(child.orelse, [])
        yield from _imports(child, package, now)


def _below(module: str, roots: tuple[str, ...]) -> bool:
    return any(module == root or module.startswith(f"{root}.") for root in roots)


def _among(file: str, patterns: tuple[str, ...]) -> bool:
    return any(file == p or (p.endswith("/**") and file.startswith(p[:-2])) for p in patterns)


def sources() -> dict[str, str]:
    """Every source file of the two packages, by its path from the repository's root."""
    files = sorted(p for package in ("orchestrator", "workers") for p in (ROOT / package).rglob("*.py"))
    return {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in files}


def module_name(file: str) -> str:
    """The dotted name of a source file: `orchestrator/store/__init__.py` is `orchestrator.store`."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def circles(files: dict[str, str]) -> list[set[str]]:
    """The groups of modules that import each other in a loop (strongly connected components of two or more)."""
    names = {module_name(file) for file in files}
    graph: dict[str, set[str]] = {}
    for file, source in files.items():
        found = graph.setdefault(module_name(file), set())
        for _, imported, _ in imports(source, file):
            parts = imported.split(".")
            candidates = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
            target = next((name for name in candidates if name in names), None)
            if target is not None and target != module_name(file):
                found.add(target)
    return [group for group in _components(graph) if len(group) > 1]


def _components(graph: dict[str, set[str]]) -> list[set[str]]:
    reached = {node: _reachable(graph, node) for node in graph}
    groups: list[set[str]] = []
    for node in graph:
        if not any(node in group for group in groups):
            groups.append({node} | {other for other in reached[node] if node in reached[other]})
    return groups


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for node in graph[waiting.pop()] - seen:
            seen.add(node)
            waiting.append(node)
    return seen
