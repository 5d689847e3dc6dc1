"""What the documentation's site takes from the program itself: the command line, the options, what was measured.

Read by MkDocs (see mkdocs.yml). A page may link to any file of the repository: links that leave docs/ are led to the
page made of that file, or are shown as its name.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"benchmarks/RESULTS.md": "results.md"}  # files outside docs/ that have a page
LINK = re.compile(r"\[(?P<name>[^\]]+)\]\((?P<up>(?:\.\./)+)(?P<path>[^)#]+)(?:#[^)]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give every page a place: those that the navigation does not name come last."""
    assert config.nav is not None
    named = set(re.findall(r"[\w/-]+\.md", str(config.nav)))
    pages = sorted(path.relative_to(config.docs_dir).as_posix() for path in Path(config.docs_dir).rglob("*.md"))
    left = [page for page in pages if page not in named]
    config.nav += [{"More": left}] if left else []
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    made = {"reference/cli.md": command_line(), "reference/config.md": configuration()}
    for path, page in PAGES.items():
        made[page] = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).exists() else "# Not measured yet\n"
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Lead links out of docs/ to their pages, or leave their words."""
    depth = page.file.src_uri.count("/")

    def led(match: re.Match[str]) -> str:
        if match["up"].count("/") <= depth:  # stays inside
            return match[0]
        target = PAGES.get(match["path"])
        return f"[{match['name']}]({'../' * depth}{target})" if target else f"{match['name']} (`{match['path']}`)"

    return LINK.sub(led, markdown)


def command_line() -> str:
    """The verbs, what each says of itself, and the help text."""
    from orchestrator.cli.help import usage
    from orchestrator.cli.main import VERBS

    said = {name: (function.__doc__ or "").replace("[", "\\[") for name, function in VERBS.items()}
    rows = "\n".join(f"| `{name}` | {text} |" for name, text in said.items())
    return (
        "# Command line\n\n"
        "`python -m orchestrator VERB [key=value ...] [FOLDER ...] [--json] [--config-dir DIR] [-m]`, or "
        "`safety-landscape` instead of the first three words.\n\n"
        f"| verb | what it does |\n|---|---|\n{rows}\n\n"
        "Progress goes to stderr, the result to stdout; `--json` gives it to machines. `-m` runs every combination of "
        "values with commas, one sweep after another; the exit code is the worst one's. `--config-dir` names a folder "
        "of your own presets, searched before the project's.\n\n"
        f"```text\n{usage(VERBS, None)}\n```\n"
    )


def configuration() -> str:
    """Every option with its default and what config.py says of it; every preset."""
    from orchestrator.config import schema as config
    from orchestrator.config.presets import GROUPS, Presets

    said = _comments(Path(config.__file__).read_text(encoding="utf-8"))
    presets = Presets()
    named = "\n".join(f"| `{g}=` | {', '.join(f'`{n}`' for n in presets.options(g)) or '–'} |" for g in GROUPS)
    sections = []
    for name, annotation in (("", "Config"), *_sections(said, "Config", "")):
        rows = [
            f"| `{name}{key}` | `{default}` | {comment} |"
            for key, (default, comment, kind) in said[annotation][1].items()
            if kind not in said
        ]
        if rows:
            title = f"## {name.rstrip('.') or 'The sweep'}\n\n{said[annotation][0]}\n\n"
            sections.append(title + "| option | default | |\n|---|---|---|\n" + "\n".join(rows))
    return (
        "# Configuration\n\n"
        "Written `key=value` on the command line. Precedence: the defaults below, then the model's preset, then the "
        "experiment, then the command line. Presets are files of `conf/`; your own go into a folder named by "
        "`--config-dir`.\n\n"
        f"| preset | names |\n|---|---|\n{named}\n\n" + "\n\n".join(sections) + "\n"
    )


Said = Mapping[str, tuple[str, Mapping[str, tuple[str, str, str]]]]


def _sections(said: Said, kind: str, prefix: str) -> Iterator[tuple[str, str]]:
    for key, (_, _, inner) in said[kind][1].items():
        if inner in said:
            yield f"{prefix}{key}.", inner
            yield from _sections(said, inner, f"{prefix}{key}.")


def _comments(source: str) -> Said:
    """{class: (docstring, {field: (default, comment on its line, type)})} of a module of dataclasses."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            fields = {
                item.target.id: (_default(item.value), comments.get(item.lineno, ""), ast.unparse(item.annotation))
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
            found[node.name] = (ast.get_docstring(node) or "", fields)
    return found


def _default(value: ast.expr | None) -> str:
    if isinstance(value, ast.Call):
        (made,) = (keyword.value for keyword in value.keywords if keyword.arg == "default_factory")
        value = made.body if isinstance(made, ast.Lambda) else ast.List([]) if ast.unparse(made) == "list" else made
    text = ast.unparse(value).replace("'", "").replace(" ", "") if value else ""
    return {"None": "null", "True": "true", "False": "false", "": "(empty)"}.get(text, text)
