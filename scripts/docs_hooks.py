"""MkDocs hooks: generate the pages of the documentation site that come from the program itself.

MkDocs loads this file (see mkdocs.yml). It generates the command line, the configuration and the benchmark results. It
also resolves links that leave docs/: to the generated page of that file if there is one, else to its name as text.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"benchmarks/RESULTS.md": "results.md"}
"""Files outside docs/ that have a page."""
LINK = re.compile(r"\[(?P<name>[^\]]+)\]\((?P<up>(?:\.\./)+)(?P<path>[^)#]+)(?:#[^)]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the pages that the navigation does not list, under "More"."""
    assert config.nav is not None
    listed = set(re.findall(r"[\w/-]+\.md", str(config.nav)))
    pages = sorted(path.relative_to(config.docs_dir).as_posix() for path in Path(config.docs_dir).rglob("*.md"))
    unlisted = [page for page in pages if page not in listed]
    if unlisted:
        config.nav.append({"More": unlisted})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    generated = {"reference/cli.md": command_line(), "reference/config.md": configuration()}
    for path, page in PAGES.items():
        source = ROOT / path
        generated[page] = source.read_text(encoding="utf-8") if source.exists() else "# Not measured yet\n"
    for name, text in generated.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Replace links that leave docs/ by links to generated pages, or by plain text."""
    depth = page.file.src_uri.count("/")

    def replacement(match: re.Match[str]) -> str:
        if match["up"].count("/") <= depth:  # the target is inside docs/
            return match[0]
        target = PAGES.get(match["path"])
        return f"[{match['name']}]({'../' * depth}{target})" if target else f"{match['name']} (`{match['path']}`)"

    return LINK.sub(replacement, markdown)


def command_line() -> str:
    """Return the command-line page: the verbs with their docstrings, and the help text."""
    from orchestrator.cli.commands import VERBS
    from orchestrator.cli.help import usage, verb_summary

    rows = "\n".join(
        f"| `{name}` | {verb_summary(function).replace('[', chr(92) + '[')} |" for name, function in VERBS.items()
    )
    return (
        "# Command line\n\n"
        "After this page you can call every verb of the program.\n\n"
        "`python -m orchestrator VERB [key=value ...] [FOLDER ...] [--json] [--config-dir DIR] [-m]`, or "
        "`safety-landscape` instead of the first three words.\n\n"
        f"| verb | what it does |\n|---|---|\n{rows}\n\n"
        "| flag | effect |\n|---|---|\n"
        "| `--json` | prints the result as JSON |\n"
        "| `-m` | runs every combination of comma-separated values, one sweep after another; the exit code is the "
        "worst one |\n"
        "| `--config-dir DIR` | searches a folder of your own presets before the project's |\n\n"
        "Progress goes to stderr, the result to stdout.\n\n"
        f"```text\n{usage(VERBS, None)}\n```\n"
    )


def configuration() -> str:
    """Return the configuration page: every option with its default and description, and every preset."""
    from orchestrator.config import schema
    from orchestrator.config.presets import GROUPS, Presets

    sections = _read_sections(Path(schema.__file__).read_text(encoding="utf-8"))
    presets = Presets()
    groups = "\n".join(f"| `{g}=` | {', '.join(f'`{n}`' for n in presets.options(g)) or '–'} |" for g in GROUPS)
    text = []
    for prefix, kind in (("", "Config"), *_nested(sections, "Config", "")):
        rows = [
            f"| `{prefix}{option.name}` | `{option.default}` | {option.comment} |"
            for option in sections[kind].options
            if option.kind not in sections
        ]
        if rows:
            title = f"## {prefix.rstrip('.') or 'The sweep'}\n\n{sections[kind].description}\n\n"
            text.append(title + "| option | default | meaning |\n|---|---|---|\n" + "\n".join(rows))
    return (
        "# Configuration\n\n"
        "After this page you can set every option.\n\n"
        "Write options as `key=value` on the command line. Later ones win: the defaults below, the model's preset, the "
        "experiment, the command line. Presets are the files in `conf/`; put your own into a folder and name it with "
        "`--config-dir`.\n\n"
        f"| group | presets |\n|---|---|\n{groups}\n\n" + "\n\n".join(text) + "\n"
    )


@dataclass(frozen=True)
class Option:
    """A field of a configuration class: its default, the comment on its line, and the name of its type."""

    name: str
    default: str
    comment: str
    kind: str


@dataclass(frozen=True)
class Section:
    """A configuration class: its docstring and its fields."""

    description: str
    options: tuple[Option, ...]


def _nested(sections: Mapping[str, Section], kind: str, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted prefix, class name) for each section inside the section `kind`, depth first."""
    for option in sections[kind].options:
        if option.kind in sections:
            yield f"{prefix}{option.name}.", option.kind
            yield from _nested(sections, option.kind, f"{prefix}{option.name}.")


def _read_sections(source: str) -> dict[str, Section]:
    """Return the dataclasses in a module's source, by class name."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    sections = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            options = tuple(
                Option(
                    item.target.id,
                    _default(item.value),
                    comments.get(item.lineno, ""),
                    ast.unparse(item.annotation),
                )
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            )
            sections[node.name] = Section(ast.get_docstring(node) or "", options)
    return sections


def _default(value: ast.expr | None) -> str:
    """Return a field's default as it is written on the command line."""
    if isinstance(value, ast.Attribute):  # a member of an enumeration
        return value.attr
    if isinstance(value, ast.Call):
        (factory,) = (keyword.value for keyword in value.keywords if keyword.arg == "default_factory")
        if isinstance(factory, ast.Lambda):
            value = factory.body
        elif ast.unparse(factory) == "list":
            value = ast.List([])
        else:
            value = factory
    text = ast.unparse(value).replace("'", "").replace(" ", "") if value else ""
    return {"None": "null", "True": "true", "False": "false", "": "(empty)"}.get(text, text)
