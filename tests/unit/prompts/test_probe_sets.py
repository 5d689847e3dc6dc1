"""Load probe sets: which prompts are read from a file, and how invalid files are refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.compose import compose
from orchestrator.config.schema import ProbesConfig
from orchestrator.prompts import capability, probe_sets
from orchestrator.prompts.probe_sets import ProbeSet, load_probe_set
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import text_id

CONF = Path(__file__).parents[3] / "conf" / "probes"
ADVBENCH = Path(__file__).parents[4] / "shared" / "data" / "advbench_harmful_behaviors.csv"


Conf = ProbesConfig


def preset(name: str, **overrides: Any) -> Conf:
    return Conf(**{**yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8")), **overrides})


def texts(probes: ProbeSet) -> list[str]:
    return [prompt.text for prompt in probes.prompts]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    ".csv": write_csv,
    ".jsonl": write_jsonl,
    ".parquet": write_parquet,
}
ROWS = [
    {"id": 7, "ask": "How, in two\nlines?", "kind": "a", "start": "Sure, so"},
    {"id": 8, "ask": '"Quoted", – ünï ✓', "kind": "b", "start": "Sure, then"},
    {"id": 9, "ask": " kept as it is ", "kind": "a", "start": "Sure, thus"},
]


@pytest.mark.parametrize("suffix", [*WRITERS, ".CSV"])
def test_all_formats_give_the_same_prompts(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    WRITERS[suffix.lower()](path, ROWS)
    probes = load_probe_set(Conf(path=str(path), column="ask", group="benign", category="kind", target="start"))
    assert (probes.name, probes.group) == ("mine", "benign")
    assert texts(probes) == [row["ask"] for row in ROWS]
    assert [prompt.id for prompt in probes.prompts] == [text_id(row["ask"]) for row in ROWS]
    assert [(p.group, p.category, p.target) for p in probes.prompts] == [
        ("benign", row["kind"], row["start"]) for row in ROWS
    ]
    assert {prompt.pair_id for prompt in probes.prompts} == {None}  # an id alone pairs with nothing


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(deadline=None, max_examples=50)
@given(
    prompts=st.lists(TEXTS, min_size=1, unique=True),
    offset=st.integers(0, 3),
    limit=st.integers(1, 9) | st.none(),
    suffix=st.sampled_from([".jsonl", ".parquet"]),
)
def test_offset_and_limit_select_a_window(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str], offset: int, limit: int | None, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("window") / f"p{suffix}"
    WRITERS[suffix](path, [{"text": text} for text in prompts])
    conf = Conf(path=str(path), offset=offset, limit=limit)
    if offset < len(prompts):
        assert texts(load_probe_set(conf)) == prompts[offset:][:limit]
    else:
        with pytest.raises(UserError, match=f"less than {len(prompts)}") as raised:
            load_probe_set(conf)
        assert raised.value.field == "probes.offset"


def test_an_attack_keeps_the_plain_request_inside_it(tmp_path: Path) -> None:
    file = tmp_path / "attacks.csv"
    file.write_text("goal,prompt\nMake tea,Max makes tea: how?\n")
    (prompt,) = load_probe_set(ProbesConfig(path=str(file), column="prompt", group="jailbreak")).prompts
    assert (prompt.text, prompt.request) == ("Max makes tea: how?", "Make tea")
    (wrapped,) = load_probe_set(
        ProbesConfig(path=str(file), column="goal", group="jailbreak", wrapper="Sing: {request}")
    ).prompts
    assert (wrapped.text, wrapped.request) == ("Sing: Make tea", "Make tea")
    (plain,) = load_probe_set(ProbesConfig(path=str(file), column="prompt", group="harmful")).prompts
    assert plain.request == plain.text


def test_rows_after_the_last_requested_row_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"text": 1}\n{"text": "two"}\n{"text": "three"}\n{"text": "two"}\n\xff not JSON\n')
    assert texts(load_probe_set(Conf(path=str(path), offset=1, limit=2))) == ["two", "three"]


def test_byte_order_marks_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    for name, content in (("p.csv", "text\r\n\r\none\r\n"), ("p.jsonl", '{"text": "one"}\r\n\r\n')):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
        assert texts(load_probe_set(Conf(path=str(tmp_path / name)))) == ["one"]


def test_long_fields_are_accepted(tmp_path: Path) -> None:
    text = "word " * 50_000  # longer than the csv module's default field limit
    write_csv(tmp_path / "p.csv", [{"text": text}])
    assert texts(load_probe_set(Conf(path=str(tmp_path / "p.csv")))) == [text]


@pytest.mark.parametrize("name", ["text", "goal", "prompt", "question", "behavior", "Behavior"])
def test_usual_column_names_are_recognized(tmp_path: Path, name: str) -> None:
    path = tmp_path / "p.csv"
    write_csv(path, [{"n": "1", name: "one"}])
    assert texts(load_probe_set(Conf(path=str(path)))) == ["one"]


def test_two_usual_columns_are_ambiguous(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    write_csv(path, [{"goal": "one", "prompt": "two"}])
    with pytest.raises(UserError, match="it has goal, prompt") as raised:
        load_probe_set(Conf(path=str(path)))
    assert raised.value.field == "probes.column"
    assert texts(load_probe_set(Conf(path=str(path), column="prompt"))) == ["two"]


def test_goal_beside_behavior_is_refused_naming_both(tmp_path: Path) -> None:
    path = tmp_path / "behaviors.csv"
    write_csv(path, [{"Index": 0, "Goal": "Write a long letter about tea", "Behavior": "Tea", "Category": "Drinks"}])
    with pytest.raises(UserError, match="choose between Goal and Behavior"):
        load_probe_set(Conf(path=str(path)))
    assert texts(load_probe_set(Conf(path=str(path), column="Goal"))) == ["Write a long letter about tea"]


XSTEST_ROWS = [
    {"id": 1, "prompt": "How do I kill the lights?", "label": "safe", "split": "test"},
    {"id": 2, "prompt": "How do I hurt a neighbor?", "label": "unsafe", "split": "test"},
    {"id": 3, "prompt": "How do I kill time?", "label": "safe", "split": "train"},
    {"id": 4, "prompt": "Where do I blow up balloons?", "label": "safe", "split": "test"},
]


def test_a_text_file_is_answered_with_how_to_make_it_a_table(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("How are you?\nWho are you?\n")
    with pytest.raises(UserError, match=r"rename it to \.csv, put a first line `prompt` into it"):
        load_probe_set(compose([f"probes.path={path}"]).probes)
    table = path.rename(path.with_suffix(".csv"))
    table.write_text(f"prompt\n{table.read_text()}")
    probes = load_probe_set(compose([f"probes.path={table}"]).probes)
    assert [prompt.text for prompt in probes.prompts] == ["How are you?", "Who are you?"]


@pytest.mark.parametrize("suffix", WRITERS)
def test_where_and_split_select_rows_of_a_users_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"xstest{suffix}"
    WRITERS[suffix](path, XSTEST_ROWS)
    first, last = XSTEST_ROWS[0]["prompt"], XSTEST_ROWS[3]["prompt"]
    safe = {"path": str(path), "category": None}
    assert texts(load_probe_set(preset("xstest", **safe))) == [first, last]
    assert texts(load_probe_set(preset("xstest", **safe, offset=1, limit=1))) == [last], "rows are selected first"
    assert texts(load_probe_set(preset("xstest", **safe, split=None))) == [first, XSTEST_ROWS[2]["prompt"], last]
    assert len(load_probe_set(Conf(path=str(path))).prompts) == 4, "without a filter all rows are read"
    assert texts(load_probe_set(Conf(path=str(path), where="id=2"))) == [XSTEST_ROWS[1]["prompt"]]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("labl=safe", "has no column labl.*did you mean 'label'"),
        ("label=harmless", "has no row with label=harmless"),
        ("label", "COLUMN=VALUE"),
        ("=safe", "COLUMN=VALUE"),
    ],
)
def test_a_filter_that_selects_nothing_is_refused(tmp_path: Path, where: str, message: str) -> None:
    path = tmp_path / "xstest.csv"
    write_csv(path, XSTEST_ROWS)
    with pytest.raises(UserError, match=message) as raised:
        load_probe_set(Conf(path=str(path), where=where))
    assert raised.value.field == "probes.where"


def test_a_file_without_the_column_of_a_subset_is_that_subset_as_a_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "p.csv"
    write_csv(path, [{"text": "one", "kind": "a"}])
    with caplog.at_level("INFO"):
        assert texts(load_probe_set(Conf(path=str(path), subset="standard", category="kind"))) == ["one"]
    assert "p.csv has no column subset: all its rows are read as subset standard" in caplog.messages
    assert "p.csv: prompts from column text, categories from column kind" in caplog.messages


def test_a_context_is_put_before_the_request_or_its_presence_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, request = tmp_path / "behaviors.csv", "Sum up the text above"
    rows = [{"Behavior": request, "ContextString": context} for context in ("Paper\nboats", "Kites", " ")]
    write_csv(path, rows)
    with pytest.raises(UserError, match=r"probes\.context=COLUMN"):
        load_probe_set(Conf(path=str(path)))
    assert texts(load_probe_set(Conf(path=str(path), limit=1))) == [request]
    assert "column ContextString that is not used: probes.context=ContextString" in caplog.text
    joined = load_probe_set(Conf(path=str(path), context="ContextString"))
    assert texts(joined) == [f"Paper\nboats\n\n---\n\n{request}", f"Kites\n\n---\n\n{request}", request]


def test_an_unused_column_of_contexts_in_a_data_set_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"prompt": "Sum up the text above", "context": "Kites"}])
    monkeypatch.setattr(probe_sets, "fetch_dataset", lambda conf: path)
    monkeypatch.setattr(probe_sets, "fetched_commit", lambda conf: "0" * 40)
    conf = Conf(path=None, hub="someone/behaviors", column="prompt")
    assert texts(load_probe_set(conf)) == ["Sum up the text above"]
    assert "someone/behaviors has a column context that is not used: probes.context=context" in caplog.text
    caplog.clear()
    assert texts(load_probe_set(dataclasses.replace(conf, context="context"))) == [
        "Kites\n\n---\n\nSum up the text above"
    ]
    assert "not used" not in caplog.text


def test_blank_rows_and_duplicates_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "p.jsonl"
    write_jsonl(path, [{"text": text} for text in ("one", " \n", None, "one", "", "two", "one", "three")])
    assert texts(load_probe_set(Conf(path=str(path), skip_empty=True, skip_duplicates=True))) == ["one", "two", "three"]
    assert "p.jsonl: 3 of its rows have no prompt and are left out" in caplog.text
    assert "p.jsonl: 2 of its rows repeat an earlier prompt and are left out" in caplog.text
    window = Conf(path=str(path), skip_empty=True, skip_duplicates=True, offset=1, limit=2)
    assert texts(load_probe_set(window)) == ["two", "three"], "a window counts the rows that are left"
    with pytest.raises(UserError, match=r"lines 1 and 4.*skip_duplicates"):
        load_probe_set(Conf(path=str(path), skip_empty=True))


# Content of a file, further options, the field of the error and its message.
BAD = {
    "empty csv": ("p.csv", "", {}, "probes.path", "is empty"),
    "header only": ("p.csv", "text,n\n", {}, "probes.path", "no rows"),
    "empty jsonl": ("p.jsonl", "\n", {}, "probes.path", "is empty"),
    "no such column": ("p.csv", "number,asks\n1,a\n", {"column": "ask"}, "probes.column", "number, asks.*mean 'asks'"),
    "preset's column": ("p.csv", "text\na\n", {"column": "goal"}, "probes.column", "it has text"),
    "no such category": ("p.csv", "text,kind\na,b\n", {"category": "kin"}, "probes.category", "did you mean 'kind'"),
    "no such target": ("p.csv", "text,kind\na,b\n", {"target": "start"}, "probes.target", "text, kind"),
    "column twice": ("p.csv", "text,text\na,b\n", {}, "probes.column", "several"),
    "empty text": ("p.csv", "text,n\na,1\n  ,2\n", {}, "probes.path", "row 2 is empty"),
    "short": ("p.csv", "text,n\na,1\nb\n", {}, "probes.path", "row 2 has 1 of the header's 2 fields: add"),
    "ragged": ("p.csv", "text,n\na,1\nb,c,2\n", {}, "probes.path", "row 2 has 3 fields, the header has 2"),
    "open quote": ("p.csv", 'text\na\n"b\n', {}, "probes.path", "line 3 is not CSV"),
    "number": ("p.jsonl", '{"text": "a"}\n\n{"text": 4}\n', {}, "probes.path", "line 3 holds int 4"),
    "null": ("p.jsonl", '{"text": null}\n', {}, "probes.path", "line 1 holds nothing"),
    "row without": ("p.jsonl", '{"text": "a"}\n{"txt": "b"}\n', {}, "probes.path", "line 2 holds nothing"),
    "surrogate": ("p.jsonl", '{"text": "\\ud800"}\n', {}, "probes.path", "line 1 holds half"),
    "not json": ("p.jsonl", '{"text": "a"}\n{"text"\n', {}, "probes.path", "line 2 is not JSON"),
    "deep json": ("p.jsonl", "[" * 100_000, {}, "probes.path", "line 1 is nested"),
    "array": ("p.jsonl", '["a"]\n', {}, "probes.path", "line 1 is not a JSON object"),
    "twice": ("p.csv", "text\na\nb\na\n", {}, "probes.path", "rows 1 and 3"),
    "twice behind offset": ("p.csv", "text\na\nb\nb\n", {"offset": 1}, "probes.path", "rows 2 and 3"),
    "latin-1": ("p.csv", b"text\na\nb\xe9\n", {}, "probes.path", "line 3 is not UTF-8 .*byte 2"),
    "utf-16": ("p.jsonl", '{"text": "a"}'.encode("utf-16"), {}, "probes.path", "line 1 is not UTF-8"),
    "not parquet": ("p.parquet", "text\na\n", {}, "probes.path", "(?i)parquet"),
    "unknown suffix": ("p.yaml", "[]", {}, "probes.path", r"\.csv, \.json, \.jsonl, \.parquet"),
    "limit": ("p.csv", "text\na\n", {"limit": 0}, "probes.limit", "at least 1"),
    "offset": ("p.csv", "text\na\n", {"offset": -1}, "probes.offset", "at least 0"),
    "past the end": ("p.csv", "text\na\nb\n", {"offset": 2}, "probes.offset", "less than 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_damaged_files_are_refused_with_the_row_number(tmp_path: Path, case: str) -> None:
    name, content, options, field, message = BAD[case]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as raised:
        load_probe_set(Conf(path=str(path), **options))
    assert raised.value.field == field
    assert re.search(message, raised.value.remedy), raised.value.remedy
    assert "\n" not in raised.value.remedy


@pytest.mark.parametrize(
    ("type_", "value"), [(pa.int64(), 3), (pa.string(), None), (pa.string(), ""), (pa.list_(pa.string()), ["a", "b"])]
)
def test_bad_parquet_values_are_refused(tmp_path: Path, type_: pa.DataType, value: object) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"text": pa.array([value], type_)}), path)
    with pytest.raises(UserError, match="row 1 ") as raised:
        load_probe_set(Conf(path=str(path)))
    assert raised.value.field == "probes.path"


def test_bad_paths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "probes.csv").write_text("text\na\n")
    (tmp_path / "folder.csv").mkdir()
    for name, message in (("prbes.csv", "did you mean 'probes.csv'"), ("folder.csv", "folder"), ("x/y.csv", "no such")):
        with pytest.raises(UserError, match=message) as raised:
            load_probe_set(Conf(path=str(tmp_path / name)))
        assert raised.value.field == "probes.path"
    with pytest.raises(UserError, match="could not be read"):
        load_probe_set(Conf(path=str(tmp_path / ("x" * 300 + ".csv"))))
    with pytest.raises(UserError, match="name the file"):
        load_probe_set(Conf())
    for name in ("harmful_evil.jsonl", "../../errors.py"):
        with pytest.raises(UserError) as raised:
            load_probe_set(Conf(file=name))
        assert raised.value.field == "probes.file"


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.csv").write_text("text\na\n")

    def refuse(*_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied")  # root can read files whatever their mode

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        load_probe_set(Conf(path=str(tmp_path / "p.csv")))


def test_embedded_evaluation_sets_are_paired() -> None:
    harmful, benign = load_probe_set(preset("harmful")), load_probe_set(preset("benign"))
    assert (harmful.name, harmful.group, benign.name, benign.group) == ("harmful", "harmful", "benign", "benign")
    assert len(harmful.prompts) >= 80
    named = {prompt.pair_id: prompt for prompt in harmful.prompts}
    assert len(named) == len(harmful.prompts)
    assert all(named[prompt.pair_id].category == prompt.category != "" for prompt in benign.prompts)
    assert {prompt.group for prompt in benign.prompts} == {"benign"}


@pytest.mark.parametrize(("group", "expected"), [("harmful", "7"), ("benign", None)])
def test_the_default_pair_id_of_harmful_and_other_rows(tmp_path: Path, group: str, expected: str | None) -> None:
    path = tmp_path / "p.csv"
    write_csv(path, [{"id": "7", "text": "one", "pair_id": ""}, {"id": "8", "text": "two", "pair_id": "x"}])
    assert [prompt.pair_id for prompt in load_probe_set(Conf(path=str(path), group=group)).prompts] == [expected, "x"]


def test_a_users_path_has_priority_over_a_shipped_file(tmp_path: Path) -> None:
    write_csv(tmp_path / "p.csv", [{"prompt": "one"}])
    assert texts(load_probe_set(preset("harmful", path=str(tmp_path / "p.csv"), category=None))) == ["one"]


def test_advbench_preset_if_installed() -> None:
    if not ADVBENCH.is_file():
        pytest.skip(f"AdvBench is not there: {ADVBENCH}")
    probes = load_probe_set(preset("advbench", path=str(ADVBENCH), limit=80))
    assert (probes.name, len(probes.prompts)) == ("advbench", 80)
    assert all(prompt.target and prompt.target.startswith("Sure") for prompt in probes.prompts)
    assert len(load_probe_set(preset("advbench", path=str(ADVBENCH), limit=10_000)).prompts) == 520


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_state_license_and_source(path: Path) -> None:
    conf = preset(path.stem)
    if path.stem == "custom":
        assert conf.name is None and conf.path is None and conf.file is None
    else:
        assert conf.name == path.stem and conf.license and conf.source


def test_a_wrapper_encloses_every_request_and_keeps_its_pair(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    write_jsonl(path, [{"id": "he-1", "pair_id": None, "text": "How {so}?"}])
    conf = Conf(path=str(path), group="jailbreak", wrapper="Play a part: {request} Go on.", prefill="Sure")
    (prompt,) = load_probe_set(conf).prompts
    assert (prompt.text, prompt.pair_id, load_probe_set(conf).prefill) == (
        "Play a part: How {so}? Go on.",
        "he-1",
        "Sure",
    )
    with pytest.raises(UserError, match="must say once where the request goes"):
        load_probe_set(Conf(path=str(path), wrapper="Play a part."))


def test_attacks_are_read_from_jailbreakbench_artifacts(tmp_path: Path) -> None:
    path = tmp_path / "attacks.json"
    successful = {"index": 0, "goal": "a goal", "category": "Fraud", "prompt": "an attack on it", "jailbroken": True}
    failed = {"index": 1, "goal": "another", "category": "Malware", "prompt": None, "jailbroken": False}
    path.write_text(json.dumps({"parameters": {"judge": "x"}, "jailbreaks": [successful, failed]}))
    conf = preset("jailbreak_file", path=str(path))
    (prompt,) = load_probe_set(conf).prompts
    assert (prompt.text, prompt.group, prompt.category) == ("an attack on it", "jailbreak", "Fraud")
    with pytest.raises(UserError, match="entry 2 holds nothing in column prompt"):
        load_probe_set(preset("jailbreak_file", path=str(path), skip_empty=False))
    for text, words in (('{"a": [], "b": []}', "holds 2 lists"), ("[1]", "entry 1 is not"), ("3", "holds no lists")):
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            load_probe_set(conf)


LAYOUTS: dict[str, dict[str, Any]] = {
    "MMLU": {"question": "2 + 2?", "subject": "maths", "choices": ["3", "4"], "answer": 1},
    "ARC": {"question": "2 + 2?", "choices": {"text": ["3", "4"], "label": ["A", "B"]}, "answerKey": "B"},
    "ARC with numbers": {"question": "2 + 2?", "choices": {"text": ["3", "4"], "label": ["1", "2"]}, "answerKey": "2"},
    "HellaSwag": {"question": "2 + 2?", "endings": ["3", "4"], "label": "1"},
    "WinoGrande": {"question": "2 + 2?", "option1": "3", "option2": "4", "answer": "2"},
    "columns": {"question": "2 + 2?", "A": "3", "B": "4", "answer": "B"},
    "tinyMMLU": {"question": "2 + 2?", "choices": ["3", "4"], "answer": 1, "input_formatted": "Q: 1 + 1 ... Q: 2 + 2?"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_questions_with_choices_are_read_in_every_layout(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "q.parquet"
    pq.write_table(pa.Table.from_pylist([LAYOUTS[layout]]), path)
    probes = load_probe_set(
        Conf(path=str(path), column="question", group="capability", answers="choice", wrapper="{request}\n!")
    )
    (prompt,) = probes.prompts
    assert (prompt.text, prompt.choices, prompt.target) == ("2 + 2?\nA. 3\nB. 4\n!", ("3", "4"), "B")
    assert probes.letters == ("A", "B")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "2 + 2?", "choices": ["3", "4"]}, "has no column answer, answerKey, label"),
        ({"question": "2 + 2?", "answer": "4"}, "has no column choices"),
        ({"question": "2 + 2?", "choices": ["4"], "answer": 0}, "row 1 has no choices"),
        ({"question": "2 + 2?", "choices": ["3", "4"], "answer": 2}, "none of its 2 choices"),
        ({"question": "2 + 2?", "choices": ["3", "4"], "answer": None}, "row 1 has no right answer"),
    ],
)
def test_incomplete_questions_are_refused(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    path = tmp_path / "q.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)
    with pytest.raises(UserError, match=words) as raised:
        load_probe_set(Conf(path=str(path), column="question", group="capability", answers="choice"))
    assert raised.value.field == "probes.path"


def test_correct_answers_are_recognized(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k.jsonl"
    write_jsonl(
        path, [{"question": "Apples?", "answer": "5 + 1,000\n#### 1,005"}, {"question": "Who?", "answer": ["A b", "C"]}]
    )
    number, words = load_probe_set(Conf(path=str(path), column="question", group="capability", answers="exact")).prompts
    assert number.target == "1,005" and number.choices == ()
    right = capability.is_correct
    assert right(number.target, (), "So 5 and 1000 make 1005.", None) and not right(
        number.target, (), "1005 or 6", None
    )
    assert words.target is not None
    assert right(words.target, (), "It was a  B!", None) and right(words.target, (), "c", None)
    assert not right(words.target, (), "It was ab, Carl", None) and not right(words.target, (), "", None)
    assert right("B", ("x", "y"), "A", [-2.0, -1.0, 0.0]), "a third letter is none of two choices"
    assert not right("B", ("x", "y"), "B", [-1.0, -1.0]), "of equals the first is the answer"


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "link to a device"])
def test_what_is_no_file_is_refused_without_waiting(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("probes.csv")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "device" and os.geteuid() == 0:
        os.mknod(path, 0o020600, os.makedev(1, 5))  # /dev/zero
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="is a device, pipe or socket: give one file"):
        load_probe_set(Conf(path=str(path)))


def test_a_large_file_is_refused_and_the_limit_can_be_raised(tmp_path: Path) -> None:
    path = tmp_path / "probes.csv"
    path.write_text("text\n" + "\n".join(f"question {i} {'x' * 1000}" for i in range(3000)))
    with pytest.raises(UserError, match=r"has 2 MiB, and probes\.max_mib=1 is the most: raise that option"):
        load_probe_set(Conf(path=str(path), max_mib=1))
    assert len(load_probe_set(Conf(path=str(path), max_mib=3)).prompts) == 3000
