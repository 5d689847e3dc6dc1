"""Who may import what: the rules, and a checker that reads source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
DRIVER = ("orchestrator/**",)
ALL = ("orchestrator/**", "workers/**")
PURE = ("orchestrator/sweep/points.py", "orchestrator/sweep/grid.py", "orchestrator/sweep/tasks.py")
NUMBERS = (
    "orchestrator/scoring/counts.py",
    "orchestrator/analysis/summary.py",
    "orchestrator/analysis/visage.py",
    "orchestrator/analysis/basin.py",
    "orchestrator/analysis/intervals.py",
    "orchestrator/analysis/agreement.py",
)
STORE = ("orchestrator.store.files", "orchestrator.store.study")
IO = ("os", "io", "pathlib", "shutil", "tempfile", "subprocess", "socket", "glob", "urllib", *STORE)


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


RULES = (
    Rule(
        says="the driver loads no engine and no model library when it is imported",
        where=DRIVER,
        but=("orchestrator/execution/dispatch.py",),
        forbids=("torch", "vllm", "ray", "transformers", "peft", "trl", "datasets", "accelerate", "numba", "triton"),
        when_imported=True,
    ),
    Rule(
        says="dispatch loads ray when it is imported, and no other heavy library",
        where=("orchestrator/execution/dispatch.py",),
        forbids=("torch", "vllm", "transformers", "peft", "trl", "datasets", "accelerate", "numba", "triton"),
        when_imported=True,
    ),
    Rule(
        says="ray is for cluster, dispatch and the actor",
        where=ALL,
        but=("orchestrator/execution/cluster.py", "orchestrator/execution/dispatch.py", "workers/actor.py"),
        forbids=("ray",),
    ),
    Rule(
        says="vllm is for engine, extension and layout",
        where=ALL,
        but=("workers/engines/vllm.py", "workers/engines/vllm_worker.py", "workers/weights/layout.py"),
        forbids=("vllm",),
    ),
    Rule(says="torch is for the workers", where=DRIVER, forbids=("torch", "triton", "numba")),
    Rule(
        says="workers know of the driver only points, tasks, store, errors and fingerprint",
        where=("workers/**",),
        forbids=("orchestrator",),
        allows=(
            "orchestrator.sweep.points",
            "orchestrator.sweep.tasks",
            "orchestrator.store.study",
            "orchestrator.utils.errors",
            "orchestrator.utils.hashing",
        ),
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
