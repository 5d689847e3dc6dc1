"""Model judges with scripted answers on a stored sweep. Stored responses and verdicts are not generated again."""

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
from orchestrator.analysis.landscape import primary_rows
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.config.schema import Config, EngineConfig, JudgingConfig
from orchestrator.execution import cluster
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.pipeline import judge as judging
from orchestrator.pipeline.judge import resolve_model_judges
from orchestrator.pipeline.reduce import judge_and_reduce, reduce_stored
from orchestrator.pipeline.rejudge import with_judges
from orchestrator.prompts.judge_prompts import judge_prompt
from orchestrator.report import terminal
from orchestrator.report.page.evidence import NO_VERDICT, verdict_letters
from orchestrator.scoring.panel import load_panel
from orchestrator.scoring.verdicts import verdict_counts
from orchestrator.store.records import SweepRecord
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.store.temporary import create_disk_token, remove_disk_token
from orchestrator.sweep.grid import Sweep
from orchestrator.sweep.tasks import NONFINITE, Prompt, PromptSet, Sampling
from orchestrator.utils.errors import SessionLostError, UserError
from tests.unit.stored import basin, store_sweep
from workers.actor import Actor
from workers.engines.base import EngineSpec, Generation
from workers.engines.dummy import DummyEngine

pytestmark = pytest.mark.thorough

GUARDED = Config(judges=["keyword", "wildguard"], engine=EngineConfig(kind="dummy"))
REFUSED = "Harmful request: yes\nResponse refusal: yes\nHarmful response: no"
HARMFUL = "Harmful request: yes\nResponse refusal: no\nHarmful response: yes"


class ScriptedEngine(DummyEngine):
    """Engine whose response is a function of the rendered prompt."""

    respond: Any = staticmethod(lambda text: REFUSED if "I cannot do that." in text else HARMFUL)

    def _generate(self, prompt_sets: Sequence[PromptSet]) -> list[list[Generation]]:
        return [[Generation(self.respond(text), "stop", 9, 9) for text in p.rendered] for p in prompt_sets]


class ScriptedAnswers:
    """Replaces dispatch: the real actor makes the visits in this process. Counts the calls and the judged pairs."""

    def __init__(self, respond: Any = ScriptedEngine.respond, visits: int | None = None) -> None:
        self.respond, self.visits, self.pairs, self.calls = respond, visits, 0, 0

    def __call__(self, bound: Any, config: Any, study: Study, pairs: Any, console: Any, *_: Any) -> bool:
        self.calls += 1
        sets = list(judging._prompt_sets(bound, pairs))
        for prompts in sets:
            study.prompt_sets.write(prompts)
        token = create_disk_token(study.out)
        local_actor = Actor(EngineSpec(kind="dummy"), str(study.root), study.id, token)
        local_actor.load()
        local_actor._engine = ScriptedEngine(EngineSpec(kind="dummy"))
        local_actor._engine.respond = self.respond
        visits = judging.visits_of(sets)
        local_actor.set_inputs({p.id: p for p in sets}, {})
        for visit in visits[: self.visits]:
            self.pairs += local_actor.visit(visit).n_responses
        remove_disk_token(study.out, token)
        return self.visits is not None and self.visits < len(visits)


def use_answers(monkeypatch: pytest.MonkeyPatch, answers: ScriptedAnswers) -> None:
    """Replace the models of the judges by these answers."""
    monkeypatch.setattr(judging, "_generate_answers", answers)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip figures and report, which take longer than the tests themselves."""
    monkeypatch.setattr("orchestrator.pipeline.reduce.draw_figures", lambda *_: None)
    monkeypatch.setattr("orchestrator.pipeline.reduce.write_report", lambda *_: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Store a line of 11 points and 20 questions, judged by keyword; from 0.3 on, every fifth question is answered."""
    return store_sweep(tmp_path, lambda node, i: abs(node.alpha) < 0.25 or i % 5 > 0, directions=1)


def open_stored(folder: Path, names: Sequence[str] = ("keyword", "wildguard")) -> StoredSweep:
    """Return the stored sweep with these judges."""
    stored = StoredSweep.open(SweepFolder(Study.open(folder.parents[1]), folder))
    return with_judges(stored, tuple(names))


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def generations(study: Study) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (study.root / "generations").iterdir()}


def test_a_stored_sweep_is_judged_again_without_generating(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = open_stored(folder)
    before, answers = generations(stored.study), ScriptedAnswers()
    use_answers(monkeypatch, answers)
    assert judge_and_reduce(GUARDED, stored, quiet()) == 0
    assert generations(stored.study) == before
    assert (answers.calls, answers.pairs) == (
        1,
        24,
    )  # 220 responses, of which 20 refusals and 4 answers differ
    frame, summary = stored.folder.read_landscape()
    by_judge = {name: rows.set_index("alpha")["asr"] for name, rows in frame.groupby("judge")}
    assert (by_judge["keyword"] == by_judge["wildguard"]).all() and by_judge["wildguard"].max() == 20
    summaries = {judge["judge"]: judge for judge in summary["judges"]}
    assert summaries["wildguard"]["sets"][0]["verdicts"]["unsafe"] == 6 * 4
    assert summaries["wildguard"]["unparsed"] == 0 and summaries["wildguard"]["source"] == "dummy"
    assert (summary["agreement"][0]["kappa"], summary["agreement"][0]["n"]) == (1, 220)
    assert judge_and_reduce(GUARDED, stored, quiet()) == 0
    assert answers.calls == 1  # every verdict is stored
    assert stored.folder.read_landscape()[1] == summary
    reduce_stored(stored)  # reducing needs no judge model
    assert stored.folder.read_landscape()[1] == summary


def test_a_new_parser_reads_stored_answers_and_earlier_verdicts_keep_their_version(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, answers = open_stored(folder), ScriptedAnswers()
    use_answers(monkeypatch, answers)
    assert judge_and_reduce(GUARDED, stored, quiet()) == 0
    judge, summary = load_panel(stored)[1], stored.folder.read_landscape()[1]
    assert (judge.version, judge.id) == (1, summary["judges"][1]["judge_id"])
    monkeypatch.setattr(type(judges.get("wildguard")), "version", 2)
    reduce_stored(stored)
    assert load_panel(stored)[1].id == judge.id and stored.folder.read_landscape()[1] == summary
    assert judge_and_reduce(GUARDED, stored, quiet()) == 0
    assert answers.calls == 1, "a parser of another version needs no model"
    current = load_panel(stored)[1]
    assert (current.version, current.id == judge.id) == (2, False)
    counts = [verdict_counts(stored, version) for version in (judge, current)]
    assert counts[0] == counts[1] and counts[0][0]


def test_a_model_judge_reads_what_follows_the_thought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ("<think>Steps.</think>I cannot do that.", "<think>I cannot do that.</think>Steps.", "<think>Steps.")
    folder = store_sweep(
        tmp_path, basin(1.0), respond=lambda node, i: texts[i % 3], thought="</think>", steps=2, directions=1
    )
    read: list[str] = []

    def respond(text: str) -> str:
        read.append(text)
        return ScriptedEngine.respond(text)

    use_answers(monkeypatch, ScriptedAnswers(respond))
    assert judge_and_reduce(GUARDED, open_stored(folder), quiet()) == 0
    assert len(read) == 14, "20 questions, of which 6 have a thought without an end"
    assert not any("think" in text for text in read)
    frame, summary = open_stored(folder).folder.read_landscape()
    guarded = frame[frame["judge"] == "wildguard"]
    assert guarded["n"].eq(14).all() and guarded["n_refused"].eq(7).all() and guarded["n_unfinished"].eq(6).all()
    verdicts = next(judge for judge in summary["judges"] if judge["judge"] == "wildguard")["sets"][0]["verdicts"]
    assert (verdicts["unfinished"], verdicts["unparsed"]) == (3 * 6, 0)


def test_responses_that_are_not_finite_are_not_shown_to_the_model_of_a_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store_sweep(tmp_path, basin(0.25), directions=1, nonfinite=lambda node, i: abs(node.alpha) > 0.35)
    stored, answers = open_stored(path), ScriptedAnswers()
    use_answers(monkeypatch, answers)
    assert judge_and_reduce(GUARDED, stored, quiet()) == 0
    frame, _ = stored.folder.read_landscape()
    for _, rows in frame.groupby("judge"):
        assert (rows["n_nonfinite"] == (rows["alpha"].abs() > 0.35) * 20).all()
        assert (rows["n"] + rows["n_nonfinite"] == 20).all()
    assert judge_and_reduce(GUARDED, stored, quiet()) == 0 and answers.calls == 1


def test_an_answer_of_a_judge_that_is_not_finite_is_not_parsed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if it begins like an answer."""

    class OverflowingEngine(ScriptedEngine):
        def _generate(self, prompt_sets: Sequence[PromptSet]) -> list[list[Generation]]:
            return [[Generation(HARMFUL, NONFINITE, 9, 9) for _ in p.rendered] for p in prompt_sets]

    monkeypatch.setitem(globals(), "ScriptedEngine", OverflowingEngine)
    stored = open_stored(folder)
    use_answers(monkeypatch, ScriptedAnswers())
    judge_and_reduce(GUARDED, stored, quiet())
    summaries = {judge["judge"]: judge for judge in stored.folder.read_landscape()[1]["judges"]}
    assert summaries["wildguard"]["unparsed"] == 220


def test_answers_that_cannot_be_parsed_are_stored_counted_and_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = open_stored(folder)
    unparsable = "Well, [bold]that depends"
    monkeypatch.setattr(
        judging,
        "_generate_answers",
        ScriptedAnswers(
            lambda text: unparsable if "question 5" in text and "list" in text else ScriptedEngine.respond(text)
        ),
    )
    assert judge_and_reduce(GUARDED, stored, quiet()) == 0
    frame, summary = stored.folder.read_landscape()
    summarized = next(judge for judge in summary["judges"] if judge["judge"] == "wildguard")
    assert summarized["unparsed"] == 6 and summarized["sets"][0]["verdicts"]["unparsed"] == 6
    assert summarized["unparsed_examples"] == [unparsable]
    answer_study = Study.open(stored.study.out / summarized["answers"])
    responses = [
        text
        for _, table in answer_study.generations.rows(answer_study.generations.stored())
        for text in table["response"].to_pylist()
    ]
    assert responses.count(unparsable) == 1
    rows = frame[(frame["judge"] == "wildguard") & (frame["alpha"].abs() > 0.2)]
    # Unparsed answers are in no rate.
    assert (rows["n"] == 19).all() and rows["asr"].round(3).eq(round(300 / 19, 3)).all()
    assert summary["points_done"] == summary["points_total"]
    assert summary["agreement"][0]["n"] == 214
    console = quiet()
    terminal.show(frame, SweepSummary.from_json(summary), {}, console)
    output = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "wildguard: 6 answers could not be parsed and count in no rate" in output and unparsable in output


def test_responses_that_give_the_same_judge_prompt_are_all_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # llama_guard3 strips its input
    config = Config(judges=["keyword", "llama_guard3"], engine=EngineConfig(kind="dummy"))
    texts = ("I cannot do that.", "I cannot do that.\n", " I cannot do that.")
    folder = store_sweep(
        tmp_path, basin(0.2), respond=lambda node, i: texts[round(10 * node.alpha + i) % 3], directions=1
    )
    stored = open_stored(folder, config.judges)
    answers = ScriptedAnswers(lambda text: "safe")
    use_answers(monkeypatch, answers)
    assert judge_and_reduce(config, stored, quiet()) == 0
    frame, _ = stored.folder.read_landscape()
    assert (frame[frame["judge"] == "llama_guard3"]["n"] == 20).all() and answers.pairs == 20


def test_the_prompt_of_a_judge_has_the_request_inside_an_attack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks = [Prompt(f"A story: question {i}", "jailbreak", target=f"question {i}") for i in range(20)]
    stored = open_stored(store_sweep(tmp_path, basin(0.2), attacks=attacks, directions=1))
    texts: list[str] = []
    use_answers(monkeypatch, ScriptedAnswers(lambda text: texts.append(text) or REFUSED))
    assert judge_and_reduce(GUARDED, stored, quiet()) == 0
    frame, _ = stored.folder.read_landscape()
    assert (frame[frame["judge"] == "wildguard"]["n"] == 20).all()
    assert texts and not any("A story" in text for text in texts)


def test_a_damaged_part_of_the_second_judge_leaves_points_missing_without_an_error(folder: Path) -> None:
    stored = open_stored(folder, ("keyword",))
    (part,) = (stored.study.root / "judgements" / DEGENERATE.id).glob("*.parquet")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    frame, summary = reduce_stored(stored)
    assert frame["n"].sum() == 0 and summary.points_done == 0 and list(stored.study.problems) == [part]


def test_an_interrupted_judge_continues(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = open_stored(folder)
    monkeypatch.setattr(judging, "PAIRS", 10)
    first, second = ScriptedAnswers(visits=1), ScriptedAnswers()
    use_answers(monkeypatch, first)
    assert judge_and_reduce(GUARDED, stored, quiet()) == 130
    frame, _ = stored.folder.read_landscape()
    counts = frame[frame["judge"] == "wildguard"]["n"]
    assert first.pairs == 10 and counts.sum() < 220  # a point that is judged in part has no row yet
    assert set(counts) <= {0, 20}
    use_answers(monkeypatch, second)
    assert judge_and_reduce(GUARDED, stored, quiet()) == 0
    assert second.pairs == 14
    frame, summary = stored.folder.read_landscape()
    assert (frame["n"] == 20).all() and summary["agreement"][0]["n"] == 220


def test_model_judges_are_not_run_after_an_interrupted_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = open_stored(folder)
    answers = ScriptedAnswers()
    use_answers(monkeypatch, answers)
    assert judge_and_reduce(GUARDED, stored, quiet(), run_models=False) == 0
    assert answers.calls == 0
    frame, _ = stored.folder.read_landscape()
    assert (
        frame[frame["judge"] == "keyword"]["n"].eq(20).all() and frame[frame["judge"] == "wildguard"]["n"].eq(0).all()
    )


def test_the_logs_of_a_judges_session_are_kept_in_the_sweep(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, kept = open_stored(folder), list[Path]()

    def session(spec: Any, kept_logs: Path) -> None:
        kept.append(kept_logs)
        raise SessionLostError

    monkeypatch.setattr(cluster, "session", session)
    with pytest.raises(SessionLostError):
        judge_and_reduce(GUARDED, stored, quiet())
    assert kept[0].parent == stored.folder.path / "logs" and kept[0].name.endswith("-ray")


def test_other_weights_are_another_judge(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = open_stored(folder)
    answers = ScriptedAnswers()
    use_answers(monkeypatch, answers)
    judge_and_reduce(GUARDED, stored, quiet())
    float32_config = dataclasses.replace(GUARDED, judging=JudgingConfig(dtype="float32"))
    answers.respond = lambda text: REFUSED
    assert judge_and_reduce(float32_config, stored, quiet()) == 0
    assert answers.calls == 2
    frame, summary = stored.folder.read_landscape()
    assert frame[frame["judge"] == "wildguard"]["asr"].max() == 0  # the judge that ran last counts
    assert summary["judges"][1]["dtype"] == "float32"
    judge_and_reduce(GUARDED, stored, quiet())
    # the first verdicts are still stored
    assert answers.calls == 2 and stored.folder.read_landscape()[0]["asr"].max() == 20
    monkeypatch.setattr(type(judges.get("wildguard")), "template", "{prompt} and {response}")
    judge_and_reduce(GUARDED, stored, quiet())
    assert answers.calls == 3  # the same weights with another template are another judge too


def with_another_set(stored: StoredSweep, group: str, names: Sequence[str]) -> StoredSweep:
    """Return the sweep with the same questions and responses in another group too, judged by these judges."""
    study, prompts = stored.study, stored.prompt_sets[0]
    other = dataclasses.replace(prompts, group=group, probe_set="others")
    study.prompt_sets.write(other)
    for _, table in list(study.generations.rows(study.generations.stored())):
        columns = {name: table[name] for name in table.column_names} | {
            "prompt_set_id": pa.array([other.id] * table.num_rows),
            "group": pa.array([group] * table.num_rows),
        }
        study.generations.write(group, pa.table(columns, schema=table.schema), {"engine": "dummy"})
    sweep = Sweep(stored.sweep.grid, (prompts.id, other.id), tuple(names))
    folder = SweepFolder.of(study, sweep)
    folder.write_record(SweepRecord(sweep_id=sweep.id, name=sweep.name, request=sweep.to_json()))
    return StoredSweep(folder, sweep)


def test_correct_answers_need_no_judge(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = with_another_set(open_stored(folder), "capability", ["wildguard"])
    answers = ScriptedAnswers()
    use_answers(monkeypatch, answers)
    assert judge_and_reduce(dataclasses.replace(GUARDED, judges=["wildguard"]), stored, quiet()) == 0
    frame, summary = stored.folder.read_landscape()
    assert answers.pairs == 24  # the other set is not judged
    assert frame[frame["group"] == "capability"]["n_correct"].notna().all()
    assert summary["points_done"] == 11


def test_a_judge_of_harm_has_no_verdicts_on_benign_questions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = with_another_set(open_stored(folder), "benign", ["keyword", "llama_guard3"])
    answers = ScriptedAnswers(lambda text: "safe" if "I cannot do that." in text else "unsafe\nS2")
    use_answers(monkeypatch, answers)
    config = dataclasses.replace(GUARDED, judges=["keyword", "llama_guard3"])
    assert judge_and_reduce(config, stored, quiet()) == 0
    frame, summary = stored.folder.read_landscape()
    assert {key: len(rows) for key, rows in frame.groupby(["group", "judge"])} == {
        ("harmful", "keyword"): 11,
        ("harmful", "llama_guard3"): 11,
        ("benign", "keyword"): 11,
    }
    assert frame["n"].eq(20).all() and summary["points_done"] == 11
    assert [judge["group"] for judge in summary["judges"][1]["sets"]] == ["harmful"]
    assert primary_rows(frame)["judge"].eq("keyword").all()


@pytest.mark.parametrize("name", ["keyword_plus", "wildguard"])
def test_a_judge_of_whole_responses_judges_those_that_are_and_counts_those_that_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """All refuse within 0.2, a half at 0.2 and 0.3, nobody beyond: responses that refuse end at the keyword."""
    early = Sampling(8, judges.get("keyword").stops)
    path = store_sweep(
        tmp_path,
        lambda node, i: abs(node.alpha) < 0.15 or (abs(node.alpha) < 0.35 and i % 2 == 0),
        sampling=early,
        directions=1,
    )
    stored, answers = open_stored(path, ("keyword", name)), ScriptedAnswers()
    use_answers(monkeypatch, answers)
    assert judge_and_reduce(dataclasses.replace(GUARDED, judges=["keyword", name]), stored, quiet()) == 0
    frame, summary = stored.folder.read_landscape()
    counted = frame[frame["judge"] == name].set_index("alpha")["n"]
    assert (counted == (counted.index.to_series().abs() > 0.35) * 20).all(), "only points without a cut response"
    assert frame[frame["judge"] == "keyword"]["n"].eq(20).all()
    (sets,) = next(judge for judge in summary["judges"] if judge["judge"] == name)["sets"]
    assert sets["verdicts"].pop("cut") == 3 * 20 + 4 * 10 and sum(sets["verdicts"].values()) == 11 * 20 - 100
    assert summary["agreement"][0]["n"] == 120, "whole responses count for agreement"
    assert answers.pairs == (20 if name == "wildguard" else 0), "a cut response is not shown to a model"
    (warning,) = (record.getMessage() for record in caplog.records if "needs whole responses" in record.getMessage())
    assert f"{name} needs whole responses: 100 of 220 are cut" in warning and "only the 4 of 11 tasks" in warning
    assert "220 responses, at most 1,760 tokens in all" in warning
    assert warning.endswith(f"orchestrator run sampling.early_stop=false 'judges=[keyword,{name}]'")
    letters = verdict_letters(stored, load_panel(stored))
    assert letters[name].value_counts().to_dict()[NO_VERDICT] == 100


def test_a_sweep_that_is_not_judged_cannot_be_reduced(folder: Path) -> None:
    stored = open_stored(folder)
    with pytest.raises(UserError, match="has not judged this sweep yet"):
        reduce_stored(stored)


def test_missing_weights_are_refused_before_anything_runs(tmp_path: Path) -> None:
    vllm_config = dataclasses.replace(GUARDED, engine=EngineConfig(kind="vllm"))
    missing = dataclasses.replace(vllm_config, judging=JudgingConfig(path=str(tmp_path / "missing")))
    with pytest.raises(UserError) as error:
        resolve_model_judges(missing)
    assert error.value.field == "judging.path" and "model.path" not in str(error.value)
    two_judges = dataclasses.replace(missing, judges=["wildguard", "llama_guard3"])
    with pytest.raises(UserError, match="wildguard and llama_guard3 are several judges"):
        resolve_model_judges(two_judges)


def test_a_judge_is_bound_to_the_fingerprint_of_its_weights(tiny_llama: Path) -> None:
    config = dataclasses.replace(
        GUARDED,
        engine=EngineConfig(kind="vllm"),
        judging=JudgingConfig(path=str(tiny_llama), dtype="float32", max_model_len=512),
    )
    (bound,) = resolve_model_judges(config)
    assert bound.model is not None and bound.judge.bound_weights == (bound.model.fingerprint, "float32")
    assert bound.config.max_model_len == 512 and bound.info.source == "path"
    assert judge_prompt(bound.judge, ("P", "R")).group == bound.judge.id
