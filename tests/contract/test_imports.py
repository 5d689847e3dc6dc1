"""Test that the source follows the import rules, and that the checker reports violations of each rule."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.rules import LAYERS, PENDING_CIRCLES, RAY_AT_IMPORT, ROOT, RULES, Rule, circles, imports, sources

HEAVY = ("torch", "vllm", "ray", "transformers", "peft", "trl", "datasets", "numba", "triton")
SLOW = ("pandas", "pyarrow", "matplotlib", "scipy", "numpy")  # too slow to import for a help text


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.reason)
def test_the_rule_holds(rule: Rule) -> None:
    covered = {file: source for file, source in sources().items() if rule.covers(file)}
    assert covered, f"the rule covers no file: {rule.where}"
    violations = [line for file, source in covered.items() for line in rule.violations(file, source)]
    assert not violations, "\n".join(["", *violations])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.reason)
def test_the_checker_reports_violations_of_the_rule(rule: Rule) -> None:
    file = next(file for file in sources() if rule.covers(file))
    for module in rule.forbids:
        wrong = f'"""A file."""\n\nimport {module}\n'
        assert rule.violations(file, wrong) == [f"{file}:3: imports {module}: {rule.reason}"]
        assert rule.violations(file, f"from {module}.inner import name\n")
        in_function = f"def f():\n    import {module}\n"
        assert bool(rule.violations(file, in_function)) is not rule.when_imported
    for module in rule.allows:
        assert not rule.violations(file, f"from {module} import name\n")
    for other in rule.but:
        assert not rule.violations(other, f"import {rule.forbids[0]}\n")


@pytest.mark.parametrize(
    ("source", "module", "at_import"),
    [
        ("import a.b as c", "a.b", True),
        ("from a import b", "a.b", True),
        ("from . import b", "orchestrator.judges.b", True),
        ("from ..store import Study", "orchestrator.store.Study", True),
        ("class C:\n    import a", "a", True),
        ("try:\n    import a\nexcept ImportError:\n    pass", "a", True),
        ("def f():\n    if True:\n        import a", "a", False),
        ("async def f():\n    import a", "a", False),
        ("if TYPE_CHECKING:\n    import a", "a", False),
        ("if typing.TYPE_CHECKING:\n    pass\nelse:\n    import a", "a", True),
        ("import importlib\nx = importlib.import_module('a')", "a", True),
        ("f = lambda: __import__('a')", "a", False),
    ],
)
def test_every_form_of_import_is_detected(source: str, module: str, at_import: bool) -> None:
    assert (module, at_import) in [record[1:] for record in imports(source, "orchestrator/judges/x.py")]


def test_every_package_has_a_layer() -> None:
    packages = {path.parent.name for path in (ROOT / "orchestrator").glob("*/__init__.py")} | {"api", "workers"}
    assert packages == {package for layer in LAYERS for package in layer}


def test_there_are_no_import_cycles() -> None:
    assert circles(sources()) == list(PENDING_CIRCLES)
    with_cycle = {"a.py": "import b", "b.py": "def f():\n    from c import x", "c.py": "import a", "d.py": "import a"}
    assert circles(with_cycle) == [{"a", "b", "c"}]


@pytest.mark.parametrize("file", [file for file in sources() if file.endswith("__init__.py")])
def test_packages_define_nothing_in_their_init(file: str) -> None:
    collections = ("orchestrator/judges/__init__.py", "orchestrator/sweep/directions/__init__.py")
    if file in ("orchestrator/__init__.py", *collections, "workers/__init__.py"):
        return
    body = ast.parse(sources()[file]).body
    assert len(body) == 1, f"{file} may hold a docstring only"
    assert ast.get_docstring(ast.parse(sources()[file]))


# Libraries import each other, so the rules on source files do not suffice: check what is in memory after an import.

PROBE = """
import importlib, json, sys
loaded, heavy = {}, set(sys.argv[1].split(","))
for name in sys.argv[2:]:
    importlib.import_module(name)
    new = heavy & set(sys.modules)
    heavy -= new
    if new:
        loaded[name] = sorted(new)
print(json.dumps(loaded))
"""


def loaded_libraries(modules: list[str], heavy: tuple[str, ...]) -> dict[str, list[str]]:
    """Import modules in order in a subprocess; map each to the `heavy` libraries that it was the first to load."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, ",".join(heavy), *modules], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.thorough
def test_importing_the_driver_loads_no_heavy_library() -> None:
    files = [file for file in sources() if file.startswith("orchestrator/") and file != "orchestrator/__main__.py"]
    names = [file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in files]
    with_ray = [file.removesuffix(".py").replace("/", ".") for file in RAY_AT_IMPORT]
    assert loaded_libraries([name for name in names if name not in with_ray], HEAVY) == {}
    for name in with_ray:
        assert loaded_libraries([name], HEAVY) == {name: ["ray"]}  # also shows that the probe works


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["run", "grid.stepz=3"], ["rum"]])
def test_help_and_errors_load_no_heavy_library(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import json, sys\nfrom orchestrator.cli.main import main\n"
        "status = main(sys.argv[2:])\n"
        "print(json.dumps(sorted(set(sys.argv[1].split(',')) & set(sys.modules))), status, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, ",".join((*HEAVY, *SLOW)), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    expected = "[] 0" if "--help" in arguments else "[] 2"
    assert done.stderr.splitlines()[-1:] == [expected], done.stderr
