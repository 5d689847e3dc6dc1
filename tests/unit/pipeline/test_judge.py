"""Model judges on a stored sweep, their answers scripted: nothing is generated anew, nothing asked twice or guessed."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from orchestrator import judges
from orchestrator.analysis import reducer as answers
from orchestrator.analysis.landscape import primary_rows
from orchestrator.analysis.results import SweepSummary
from orchestrator.config.schema import Config, EngineConfig, JudgingConfig
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.pipeline import judge as judging
from orchestrator.prompts.judge_prompts import judge_prompt
from orchestrator.report import terminal
from orchestrator.scoring import panel as seats
from orchestrator.store.status import load
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.temporary import create_disk_token, remove_disk_token
from orchestrator.sweep.grid import Sweep
from orchestrator.sweep.tasks import Prompt, PromptSet
from orchestrator.utils.errors import UserError
from tests.unit.stored import basin, store_sweep
from workers.actor import Actor
from workers.engines.base import EngineSpec, Generation
from workers.engines.dummy import DummyEngine

GUARDED = Config(judges=["keyword", "wildguard"], engine=EngineConfig(kind="dummy"))
REFUSED = "Harmful request: yes\nResponse refusal: yes\nHarmful response: no"
HARMFUL = "Harmful request: yes\nResponse refusal: no\nHarmful response: yes"


class Scripted(DummyEngine):
    """Says what a function of the filled template says."""

    says: Any = staticmethod(lambda text: REFUSED if "I cannot do that." in text else HARMFUL)

    def _generate(self, prompt_sets: Sequence[PromptSet]) -> list[list[Generation]]:
        return [[Generation(self.says(text), "stop", 9, 9) for text in p.rendered] for p in prompt_sets]


class Asked:
    """Stands in for dispatch: visits are made in this process, by the real actor. Counts what is asked."""

    def __init__(self, says: Any = Scripted.says, visits: int | None = None) -> None:
        self.says, self.visits, self.pairs, self.calls = says, visits, 0, 0

    def __call__(self, seat: Any, config: Any, bench: Study, left: Any, console: Any, actor: Any = None) -> bool:
        self.calls += 1
        sets = list(judging._prompt_sets(seat, None, left))
        for prompts in sets:
            bench.prompt_sets.write(prompts)
        token = create_disk_token(bench.out)
        one = Actor(EngineSpec(kind="dummy"), str(bench.root), bench.id, token)
        one.load()
        one._engine = Scripted(EngineSpec(kind="dummy"))
        one._engine.says = self.says
        todo = judging.visits_of(sets)
        one.equip({p.id: p for p in sets}, {})
        for visit in todo[: self.visits]:
            self.pairs += one.visit(visit).n_responses
        remove_disk_token(bench.out, token)
        return self.visits is not None and self.visits < len(todo)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures and no report: they take longer than all the rest."""
    monkeypatch.setattr(answers, "draw", lambda *_: None)
    monkeypatch.setattr("orchestrator.report.page.render.write_report", lambda *_: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A line of 11 points and 20 questions, judged by keyword; from 0.3 on every fifth question is answered."""
    return store_sweep(tmp_path, lambda node, i: abs(node.alpha) < 0.25 or i % 5 > 0, directions=1)


def opened(folder: Path, names: Sequence[str] = ("keyword", "wildguard")) -> tuple[Study, Sweep, Path]:
    """The stored sweep, asked of these judges."""
    study = Study.open(folder.parents[1])
    sweep, record = load(study, folder)
    sweep = dataclasses.replace(sweep, judges=tuple(names))
    own = SweepFolder.of(study, sweep).path
    SweepFolder(study, own).write_record(record | {"sweep_id": sweep.id, "request": sweep.to_json()})
    return study, sweep, own


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def generations(study: Study) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (study.root / "generations").iterdir()}


def test_a_stored_sweep_is_judged_again_without_generating(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, sweep, own = opened(folder)
    before, asked = generations(study), Asked()
    monkeypatch.setattr(judging, "_ask", asked)
    assert judging.answer(GUARDED, study, sweep, own, quiet()) == 0
    assert generations(study) == before
    assert (asked.calls, asked.pairs) == (1, 24)  # 220 responses, but 20 refusals and 4 answers are all that differs
    frame, summary = SweepFolder(study, own).read_landscape()
    by_judge = {name: rows.set_index("alpha")["asr"] for name, rows in frame.groupby("judge")}
    assert (by_judge["keyword"] == by_judge["wildguard"]).all() and by_judge["wildguard"].max() == 20
    said = {each["judge"]: each for each in summary["judges"]}
    assert said["wildguard"]["sets"][0]["verdicts"]["unsafe"] == 6 * 4
    assert said["wildguard"]["unparsed"] == 0 and said["wildguard"]["source"] == "dummy"
    assert (summary["agreement"][0]["kappa"], summary["agreement"][0]["n"]) == (1, 220)
    assert judging.answer(GUARDED, study, sweep, own, quiet()) == 0
    assert asked.calls == 1  # all is stored
    assert SweepFolder(study, own).read_landscape()[1] == summary
    answers.reduce_stored(study, sweep, own)  # and needs no judge
    assert SweepFolder(study, own).read_landscape()[1] == summary


def test_what_does_not_parse_is_kept_counted_and_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, sweep, own = opened(folder)
    odd = "Well, [bold]that depends"
    monkeypatch.setattr(
        judging, "_ask", Asked(lambda text: odd if "question 5" in text and "list" in text else Scripted.says(text))
    )
    assert judging.answer(GUARDED, study, sweep, own, quiet()) == 0
    frame, summary = SweepFolder(study, own).read_landscape()
    said = next(each for each in summary["judges"] if each["judge"] == "wildguard")
    assert said["unparsed"] == 6 and said["sets"][0]["verdicts"]["unparsed"] == 6
    assert said["unparsed_examples"] == [odd]
    bench = Study.open(study.out / said["answers"])
    kept = [
        text
        for _, table in bench.generations.rows(bench.generations.stored())
        for text in table["response"].to_pylist()
    ]
    assert kept.count(odd) == 1
    rows = frame[(frame["judge"] == "wildguard") & (frame["alpha"].abs() > 0.2)]
    assert (rows["n"] == 19).all() and rows["asr"].round(3).eq(round(300 / 19, 3)).all()  # in no rate
    assert summary["points_done"] == summary["points_total"]
    assert summary["agreement"][0]["n"] == 214
    console = quiet()
    terminal.show(frame, SweepSummary.from_json(summary), {}, console)
    told = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "wildguard: 6 answers could not be parsed and count in no rate" in told and odd in told


def test_responses_that_are_one_question_to_the_judge_are_all_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(judges=["keyword", "llama_guard3"], engine=EngineConfig(kind="dummy"))  # it strips what it is given
    words = ("I cannot do that.", "I cannot do that.\n", " I cannot do that.")
    folder = store_sweep(tmp_path, basin(0.2), says=lambda node, i: words[round(10 * node.alpha + i) % 3], directions=1)
    study, sweep, own = opened(folder, config.judges)
    asked = Asked(lambda text: "safe")
    monkeypatch.setattr(judging, "_ask", asked)
    assert judging.answer(config, study, sweep, own, quiet()) == 0
    frame, _ = SweepFolder(study, own).read_landscape()
    assert (frame[frame["judge"] == "llama_guard3"]["n"] == 20).all() and asked.pairs == 20


def test_a_judge_is_told_the_request_inside_an_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attacks = [Prompt(f"A story: question {i}", "jailbreak", target=f"question {i}") for i in range(20)]
    study, sweep, own = opened(store_sweep(tmp_path, basin(0.2), attacks=attacks, directions=1))
    heard: list[str] = []
    monkeypatch.setattr(judging, "_ask", Asked(lambda text: heard.append(text) or REFUSED))
    assert judging.answer(GUARDED, study, sweep, own, quiet()) == 0
    frame, _ = SweepFolder(study, own).read_landscape()
    assert (frame[frame["judge"] == "wildguard"]["n"] == 20).all()
    assert heard and not any("A story" in text for text in heard)


def test_a_damaged_part_of_the_second_judge_leaves_holes_and_no_traceback(folder: Path) -> None:
    study, sweep, own = opened(folder, ("keyword",))
    (part,) = (study.root / "judgements" / DEGENERATE.id).glob("*.parquet")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    frame, summary = answers.reduce_stored(study, sweep, own)
    assert frame["n"].sum() == 0 and summary.points_done == 0 and list(study.problems) == [part]


def test_an_interrupted_judge_goes_on_where_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, sweep, own = opened(folder)
    monkeypatch.setattr(judging, "PAIRS", 10)
    first, second = Asked(visits=1), Asked()
    monkeypatch.setattr(judging, "_ask", first)
    assert judging.answer(GUARDED, study, sweep, own, quiet()) == 130
    frame, _ = SweepFolder(study, own).read_landscape()
    judged = frame[frame["judge"] == "wildguard"]["n"]
    assert first.pairs == 10 and judged.sum() < 220  # a point that is judged in part has no row yet
    assert set(judged) <= {0, 20}
    monkeypatch.setattr(judging, "_ask", second)
    assert judging.answer(GUARDED, study, sweep, own, quiet()) == 0
    assert second.pairs == 14
    frame, summary = SweepFolder(study, own).read_landscape()
    assert (frame["n"] == 20).all() and summary["agreement"][0]["n"] == 220


def test_not_asked_after_an_interrupted_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, sweep, own = opened(folder)
    asked = Asked()
    monkeypatch.setattr(judging, "_ask", asked)
    assert judging.answer(GUARDED, study, sweep, own, quiet(), ask=False) == 0
    assert asked.calls == 0
    frame, _ = SweepFolder(study, own).read_landscape()
    assert (
        frame[frame["judge"] == "keyword"]["n"].eq(20).all() and frame[frame["judge"] == "wildguard"]["n"].eq(0).all()
    )


def test_other_weights_are_another_judge(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, sweep, own = opened(folder)
    asked = Asked()
    monkeypatch.setattr(judging, "_ask", asked)
    judging.answer(GUARDED, study, sweep, own, quiet())
    finer = dataclasses.replace(GUARDED, judging=JudgingConfig(dtype="float32"))
    asked.says = lambda text: REFUSED
    assert judging.answer(finer, study, sweep, own, quiet()) == 0
    assert asked.calls == 2
    frame, summary = SweepFolder(study, own).read_landscape()
    assert frame[frame["judge"] == "wildguard"]["asr"].max() == 0  # the last that judged counts
    assert summary["judges"][1]["dtype"] == "float32"
    judging.answer(GUARDED, study, sweep, own, quiet())
    assert (
        asked.calls == 2 and SweepFolder(study, own).read_landscape()[0]["asr"].max() == 20
    )  # and the first is still there
    monkeypatch.setattr(type(judges.get("wildguard")), "version", 2)
    judging.answer(GUARDED, study, sweep, own, quiet())
    assert asked.calls == 3  # the same weights asked in another way are another judge too


def beside(study: Study, sweep: Sweep, group: str, names: Sequence[str]) -> tuple[Sweep, Path]:
    """The sweep with the same questions and responses in another group too, asked of these judges."""
    asked = study.prompt_sets.read(sweep.prompt_set_ids[0])
    other = dataclasses.replace(asked, group=group, probe_set="others")
    study.prompt_sets.write(other)
    for _, table in list(study.generations.rows(study.generations.stored())):
        columns = {name: table[name] for name in table.column_names} | {
            "prompt_set_id": pa.array([other.id] * table.num_rows),
            "group": pa.array([group] * table.num_rows),
        }
        study.generations.write(group, pa.table(columns, schema=table.schema), {"engine": "dummy"})
    sweep = Sweep(sweep.grid, (asked.id, other.id), tuple(names))
    own = SweepFolder.of(study, sweep).path
    SweepFolder(study, own).write_record({"sweep_id": sweep.id, "request": sweep.to_json(), "runs": []})
    return sweep, own


def test_right_answers_need_no_judge(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, sweep, _ = opened(folder)
    sweep, own = beside(study, sweep, "capability", ["wildguard"])
    asked = Asked()
    monkeypatch.setattr(judging, "_ask", asked)
    assert judging.answer(dataclasses.replace(GUARDED, judges=["wildguard"]), study, sweep, own, quiet()) == 0
    frame, summary = SweepFolder(study, own).read_landscape()
    assert asked.pairs == 24  # nothing of the other set
    assert frame[frame["group"] == "capability"]["n_correct"].notna().all()
    assert summary["points_done"] == 11


def test_a_judge_of_harm_says_nothing_of_benign_questions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, sweep, _ = opened(folder)
    sweep, own = beside(study, sweep, "benign", ["keyword", "llama_guard3"])
    monkeypatch.setattr(judging, "_ask", Asked(lambda text: "safe" if "I cannot do that." in text else "unsafe\nS2"))
    config = dataclasses.replace(GUARDED, judges=["keyword", "llama_guard3"])
    assert judging.answer(config, study, sweep, own, quiet()) == 0
    frame, summary = SweepFolder(study, own).read_landscape()
    assert {key: len(rows) for key, rows in frame.groupby(["group", "judge"])} == {
        ("harmful", "keyword"): 11,
        ("harmful", "llama_guard3"): 11,
        ("benign", "keyword"): 11,
    }
    assert frame["n"].eq(20).all() and summary["points_done"] == 11
    assert [each["group"] for each in summary["judges"][1]["sets"]] == ["harmful"]
    assert primary_rows(frame)["judge"].eq("keyword").all()


def test_early_stopped_responses_are_refused_with_the_way_out(tmp_path: Path, folder: Path) -> None:
    study, sweep, _ = opened(folder)
    asked = study.prompt_sets.read(sweep.prompt_set_ids[0])
    sampling = dataclasses.replace(asked.sampling, stop=judges.get("keyword").stops)
    cut = dataclasses.replace(asked, sampling=sampling)
    study.prompt_sets.write(cut)
    for name in ("keyword_plus", "wildguard"):
        other = Sweep(sweep.grid, (cut.id,), (name,))
        with pytest.raises(UserError, match=r"sampling\.early_stop=false, which generates 20 responses a point anew"):
            judging.answer(dataclasses.replace(GUARDED, judges=[name]), study, other, folder, quiet())
    assert seats.check_judges(study, Sweep(sweep.grid, (cut.id,), ("keyword",)))


def test_reduce_before_the_judge(folder: Path) -> None:
    study, sweep, own = opened(folder)
    with pytest.raises(UserError, match="has not judged this sweep yet"):
        answers.reduce_stored(study, sweep, own)


def test_weights_are_found_before_anything_runs(tmp_path: Path) -> None:
    real = dataclasses.replace(GUARDED, engine=EngineConfig(kind="vllm"))
    missing = dataclasses.replace(real, judging=JudgingConfig(path=str(tmp_path / "missing")))
    with pytest.raises(UserError) as refused:
        judging.seats(missing)
    assert refused.value.field == "judging.path" and "model.path" not in str(refused.value)
    two = dataclasses.replace(missing, judges=["wildguard", "llama_guard3"])
    with pytest.raises(UserError, match="wildguard and llama_guard3 are several judges"):
        judging.seats(two)


@pytest.mark.thorough
def test_real_weights_name_the_judge(tiny_llama: Path) -> None:
    config = dataclasses.replace(
        GUARDED,
        engine=EngineConfig(kind="vllm"),
        judging=JudgingConfig(path=str(tiny_llama), dtype="float32", max_model_len=512),
    )
    (seat,) = judging.seats(config)
    assert seat.model is not None and seat.judge.bound_weights == (seat.model.fingerprint, "float32")
    assert seat.config.max_model_len == 512 and seat.info.source == "path"
    assert judge_prompt(seat.judge, ("P", "R")).group == seat.judge.id
