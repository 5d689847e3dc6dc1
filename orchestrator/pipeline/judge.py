"""Model judges: stored responses -> pairs -> visits of the judge's own model at its origin -> verdicts.

    study's responses --pairs--> what the judge reads --dispatch--> the judge's answers --parse--> study's verdicts

A judge's answers are a study like any other, `<out>/<judge>-<id8>/`: its model is the judge's, its only point the
origin, its prompts the filled templates. So they are made by the same actors, survive what a sweep survives, and are
asked for once for each (prompt, response) under the same `out`: a refusal that was heard at forty points is judged
once. Verdicts are read from them and stored beside those of the text judges.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from orchestrator import judges
from orchestrator.analysis import reducer as answers
from orchestrator.config.schema import Config, ModelConfig
from orchestrator.execution.resources import dispatch_policy, engine_spec
from orchestrator.judges._model import UNPARSED, ModelJudge
from orchestrator.models.checkpoint import MODEL_FIELD
from orchestrator.models.resolve import ResolvedModel, resolve_model
from orchestrator.prompts.judge_prompts import JUDGE_FIELD, Pair, judge_prompt, judge_prompt_set
from orchestrator.scoring.panel import check_judges
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.sweep.grid import Sweep
from orchestrator.sweep.points import Point
from orchestrator.sweep.tasks import Prompt, PromptSet, Task, visits
from orchestrator.utils.choices import Dtype
from orchestrator.utils.errors import ExitCode, UserError
from workers.noise.definition import NOISE_VERSION

PAIRS = 256  # that a visit asks about
EXAMPLES = 5  # of unparsed answers, that a sweep's record shows


@dataclass(frozen=True)
class Seat:
    """A judge with its weights at hand. `model` is None for the dummy engine."""

    judge: ModelJudge
    config: ModelConfig
    model: ResolvedModel | None

    @property
    def info(self) -> StudyInfo:
        """The study that its answers are."""
        assert self.judge.bound_weights is not None
        fingerprint, dtype = self.judge.bound_weights
        source, revision = ("dummy", None) if self.model is None else (self.model.source, self.model.revision)
        return StudyInfo(self.judge.name, fingerprint, dtype, NOISE_VERSION, source, revision)


@dataclass(frozen=True)
class Tally:
    """What came of one judge: responses it was asked about in this run, verdicts stored, and what is left without."""

    asked: int
    judged: int
    left: int
    interrupted: bool


def seats(config: Config) -> list[Seat]:
    """The model judges that are asked for, in order, their weights found, fetched first where they must be.

    Raises UserError: weights missing or not to be had, or one folder for two judges.
    """
    found = [judge for name in config.judge_names if isinstance(judge := judges.get(name), ModelJudge)]
    if config.judging.path and len(found) > 1:
        names = " and ".join(judge.name for judge in found)
        remedy = f"is one folder, and {names} are several judges: run them one after the other, each with its own"
        raise UserError("judging.path", config.judging.path, remedy)
    return [_seat(config, judge) for judge in found]


def _seat(config: Config, judge: ModelJudge) -> Seat:
    asked, own = config.judging, judge.weights
    model = ModelConfig(
        name=judge.name,
        path=asked.path,
        hub=own.hub,
        revision=own.revision,
        dtype=asked.dtype or Dtype(own.dtype),
        gated=own.gated,
        license=own.license,
        max_model_len=asked.max_model_len or own.max_model_len,
    )
    if config.engine.kind == "dummy":
        return Seat(judge.with_weights("dummy", model.dtype), model, None)
    with of_the_judge():
        resolved = resolve_model(model)
    return Seat(judge.with_weights(resolved.fingerprint, resolved.dtype), model, resolved)


def answer(config: Config, study: Study, sweep: Sweep, folder: Path, console: Console, ask: bool = True) -> int:
    """Have the sweep's model judges answer where a verdict is missing (not if `ask` is false), then judge, reduce and
    draw. Returns the exit code."""
    check_judges(study, sweep)
    code = ExitCode.COMPLETE
    for seat in seats(config):
        _note(seat, study, folder)
        if ask and code != ExitCode.INTERRUPTED:
            tally = judge_stored(seat, config, study, sweep, folder, console)
            if tally.interrupted:
                code = ExitCode.INTERRUPTED
            elif tally.left and not code:
                code = ExitCode.FAILED_TASKS
    with console.status("judging and reducing"):
        answers.answer(study, sweep, folder, config.report)
    return code


def _note(seat: Seat, study: Study, folder: Path, unparsed: Sequence[str] | None = None) -> None:
    """Which weights judge this sweep: what `reduce` has to know to find their verdicts."""
    assert seat.judge.bound_weights is not None
    fingerprint, dtype = seat.judge.bound_weights
    before = SweepFolder(study, folder).read_judge(seat.judge.name)
    same = before.get("judge_id") == seat.judge.id
    document = {
        "judge_id": seat.judge.id,
        "version": seat.judge.version,
        "fingerprint": fingerprint,
        "dtype": dtype,
        "source": seat.info.source,
        "revision": seat.info.revision,
        "answers": Study.locate(study.out, seat.info).root.name,
        "unparsed_examples": before.get("unparsed_examples", []) if same and unparsed is None else list(unparsed or []),
    }
    if document != before:
        SweepFolder(study, folder).write_judge(seat.judge.name, document)


def judge_stored(
    seat: Seat, config: Config, study: Study, sweep: Sweep, folder: Path, console: Console, actor: Any = None
) -> Tally:
    """Store this judge's verdict on every response of the sweep that has none, asking its model where it must.

    `actor`: what dispatch makes actors of, for tests.
    """
    judge = seat.judge
    prompt_sets = check_judges(study, sweep)
    sets = {p.id for p in prompt_sets if judge.applies_to(p.group)}
    winners = {key: part for key, part in study.generations.stored_of(sweep.tasks()).items() if key[1] in sets}
    judged_already = study.judgements(judge.id).covering(winners)
    missing = {key: part for key, part in winners.items() if key not in judged_already}
    requests = {prompt.id: prompt.request for prompts in prompt_sets for prompt in prompts.prompts}
    names = _names(judge, study, missing, requests)
    wanted = {name: pair for pair, name in names.items()}
    bench = Study.create(study.out, seat.info)
    heard = _heard(bench, judge, wanted)
    left = {name: pair for name, pair in wanted.items() if name not in heard}
    interrupted = False
    if left:
        told = f"{judge.name}: {len(left)} of {len(wanted)} different responses to judge"
        console.print(told, highlight=False)
        interrupted = _ask(seat, config, bench, list(left.values()), console, actor)
        heard = _heard(bench, judge, wanted)
    found = {name: judge.parse(text) for name, text in heard.items()}

    def find(prompt: Prompt, response: str) -> tuple[str, float | None] | None:
        finding = found.get(names.get((prompt.request, response), ""))
        return None if finding is None else (finding.verdict, finding.score)

    judged = answers.judge_missing(study, judge, missing, prompt_sets, find=find)
    unread = sorted({heard[name] for name, finding in found.items() if finding.verdict == UNPARSED})
    if missing:
        _note(seat, study, folder, unread[:EXAMPLES])
    without = sum(1 for name in wanted if name not in heard)
    if without:
        console.print(f"{judge.name}: {without} responses have no verdict yet; run again", highlight=False)
    return Tally(len(left) - without, judged, without, interrupted)


def _names(judge: ModelJudge, study: Study, missing: Mapping[Any, Any], requests: Mapping[str, str]) -> dict[Pair, str]:
    """Every different pair of these tasks, with the name that its question to the judge has: to one that strips what it
    is given, two pairs may be one question."""
    pairs_seen: dict[Pair, None] = {}
    for _, table in study.generations.rows(missing):
        asked = (requests[name] for name in table["prompt_id"].to_pylist())
        pairs_seen.update(dict.fromkeys(zip(asked, table["response"].to_pylist(), strict=True)))
    return {pair: judge_prompt(judge, pair).id for pair in pairs_seen}


def _heard(bench: Study, judge: ModelJudge, wanted: Mapping[str, Pair]) -> dict[str, str]:
    """The answers of this very judge that are stored, by the name of the question; of two, the first stands."""
    heard: dict[str, str] = {}
    names = pa.array(sorted(wanted), pa.string())
    stored = bench.generations.stored() if wanted else {}
    for _, table in bench.generations.rows(stored):
        own = table.filter(pc.and_(pc.equal(table["group"], judge.id), pc.is_in(table["prompt_id"], names)))
        for name, text in zip(own["prompt_id"].to_pylist(), own["response"].to_pylist(), strict=True):
            heard.setdefault(name, text)
    return heard


def _ask(seat: Seat, config: Config, bench: Study, left: Sequence[Pair], console: Console, actor: Any = None) -> bool:
    """Have the judge's model answer about these pairs, and store what it says. Whether that was cut short."""
    from orchestrator.execution import cluster, dispatch

    folder = None if seat.model is None else seat.model.path
    sets = list(_prompt_sets(seat, folder, left))
    for prompts in sets:
        bench.prompt_sets.write(prompts)
    todo = visits_of(sets)
    engine = dataclasses.replace(config.engine, tensor_parallel=config.judging.tensor_parallel)
    own = dataclasses.replace(config, model=seat.config, engine=engine)
    run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}"
    events = bench.events(run_id)
    done = itertools.count(1)
    with console.status("") as status, cluster.session(cluster.ClusterSpec.from_config(own.cluster)), of_the_judge():

        def observe(event: str, **fields: Any) -> None:
            events.write(event, **fields)
            if event in ("actor_starting", "visit_done"):
                number = next(done) if event == "visit_done" else 0
                status.update(f"{seat.judge.name}: {number} of {len(todo)} visits")

        spec = engine_spec(own, seat.model, cluster.device())
        policy = dispatch_policy(own, spec, cluster.gpus(), cluster.cores_of_smallest_node())
        work = dispatch.Dispatcher(
            bench, spec, policy, lambda described: None, observe, **({"actor": actor} if actor else {})
        )
        outcome = work.run(todo, {prompts.id: prompts for prompts in sets}, [])
    return outcome.interrupted


@contextlib.contextmanager
def of_the_judge() -> Iterator[None]:
    """What an engine refuses of a model is the judge's to be mended here."""
    try:
        yield
    except UserError as error:
        if not error.field.startswith("model."):
            raise
        remedy = error.remedy.replace(f"{MODEL_FIELD}=", f"{JUDGE_FIELD}=")
        raise UserError(error.field.replace("model.", "judging.", 1), error.value, remedy) from error


def _prompt_sets(seat: Seat, folder: Path | None, left: Sequence[Pair]) -> Iterator[PromptSet]:
    whole = judge_prompt_set(seat.judge, folder, left, seat.config.max_model_len)
    for start in range(0, len(left), PAIRS):
        part = slice(start, start + PAIRS)
        yield dataclasses.replace(
            whole, prompts=whole.prompts[part], rendered=whole.rendered[part], token_ids=whole.token_ids[part]
        )


def visits_of(sets: Iterable[PromptSet]) -> list[Any]:
    """One visit of the origin for each: an interruption then costs no more than one of them."""
    return [visit for prompts in sets for visit in visits([Task(Point(), prompts.id)])]
