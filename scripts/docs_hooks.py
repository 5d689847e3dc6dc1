"""MkDocs hooks: generate the pages of the documentation site that come from the program itself.

MkDocs loads this file (see mkdocs.yml). It generates the command line, the configuration, the benchmark results and the
notebooks. It also resolves links that leave docs/: to the generated page of that file if there is one, else to its name
as text. It writes the search index as a script too, which docs/javascripts/offline_search.js needs.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
PAGES = {"benchmarks/RESULTS.md": "results.md"} | {
    f"notebooks/{name}.ipynb": f"notebooks/{name}.md" for name in NOTEBOOKS
}
"""Files outside docs/ that have a page."""
LINK = re.compile(r"\[(?P<name>[^\]]+)\]\((?P<up>(?:\.\./)+)(?P<path>[^)#]+)(?P<anchor>#[^)]*)?\)")


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
        text = source.read_text(encoding="utf-8") if source.exists() else "# Not measured yet\n"
        generated[page] = notebook_page(text) if source.suffix == ".ipynb" else text
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
        if target is None:
            return f"{match['name']} (`{match['path']}`)"
        return f"[{match['name']}]({'../' * depth}{target}{match['anchor'] or ''})"

    return LINK.sub(replacement, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Write the search index as a script, because a page that was opened from a folder can load only scripts."""
    folder = Path(config.site_dir) / "search"
    index = (folder / "search_index.json").read_text(encoding="utf-8")
    (folder / "search_index.js").write_text(f"var __index = {index}", encoding="utf-8")


def notebook_page(text: str) -> str:
    """Return a notebook as Markdown. Notebooks are committed without outputs, so the page has text and code alone."""
    cells = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        cells.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
    return "\n\n".join(cells) + "\n"


def command_line() -> str:
    """Return the command-line page: the verbs with their docstrings, and the help text."""
    from orchestrator.cli.commands import VERBS
    from orchestrator.cli.help import overview, verb_summary

    rows = "\n".join(
        f"| `{name}` | {verb_summary(function).replace('[', chr(92) + '[')} |" for name, function in VERBS.items()
    )
    return (
        "# Command line\n\n"
        "After this page you can call every verb of the program.\n\n"
        "`python -m orchestrator VERB [key=value ...] [FOLDER ...] [FLAG ...]`, or `safety-landscape` instead of the "
        "first three words.\n\n"
        f"| verb | what it does |\n|---|---|\n{rows}\n\n"
        "`help VERB`, or `VERB --help`, lists each option with a description. Beside it stands the value that the verb "
        "would use: `run model=mistral7b --help` shows the values of that preset. With `-m`, the exit code is the "
        "worst one of all sweeps.\n\n"
        "TAB completes verbs, options and presets of `safety-landscape` after "
        '`eval "$(safety-landscape completion bash)"` in `~/.bashrc`, or the same with `zsh` in `~/.zshrc`; fish reads '
        "the output of `completion fish` from `~/.config/fish/completions/safety-landscape.fish`.\n\n"
        "Progress goes to stderr, the result to stdout: with `--json`, as [a document with a schema](../json.md).\n\n"
        f"```text\n{overview(VERBS)}\n```\n"
    )


def configuration() -> str:
    """Return the configuration page: every option with its default and description, and every preset."""
    from orchestrator.config.descriptions import sections
    from orchestrator.config.presets import GROUPS, Presets

    presets = Presets()
    groups = "\n".join(f"| `{g}=` | {', '.join(f'`{n}`' for n in presets.options(g)) or '–'} |" for g in GROUPS)
    text = []
    for section in sections():
        rows = [f"| `{section.prefix}{o.name}` | `{o.default}` | {o.comment} |" for o in section.options]
        if rows:
            title = f"## {section.prefix.rstrip('.') or 'The sweep'}\n\n{section.description}\n\n"
            text.append(title + "| option | default | meaning |\n|---|---|---|\n" + "\n".join(rows))
    return (
        "# Configuration\n\n"
        "After this page you can set every option.\n\n"
        "Write options as `key=value` on the command line. Later ones win: the defaults below, the model's preset, the "
        "experiment, the command line. Presets are the files in `conf/`; put your own into a folder and name it with "
        "`--config-dir`.\n\n"
        f"| group | presets |\n|---|---|\n{groups}\n\n" + "\n\n".join(text) + "\n"
    )
