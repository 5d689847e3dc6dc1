"""Turn a user's labels of stored responses into the calibration of a study's model: calibration.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.analysis.calibration import (
    MIN_LABELS,
    MIN_LABELS_OF_A_KIND,
    Calibration,
    LabeledResponse,
    make_strata,
    why_not_covered,
)
from orchestrator.judges import Judge
from orchestrator.prompts.probe_files import FORMATS, check_is_table
from orchestrator.scoring.panel import degeneracy_judge, load_judge
from orchestrator.scoring.text_judges import score_missing
from orchestrator.scoring.verdicts import outcomes
from orchestrator.store.calibrations import write_calibration
from orchestrator.store.schemas import RESPONSE_KEY
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.hashing import text_id

FIELD = "calibrate"
COLUMNS = ("response_id", "label")
IS_DEGENERATE = {"degenerate": True, "complied": False, "coherent": False, "refused": False, "unclear": None}
"""Label -> whether such a response is degenerate. None: the label is not counted."""


@dataclass(frozen=True)
class Labels:
    """The labels in a user's file.

    Attributes:
        path: The file.
        rows: Response id -> (its place in the file, such as "line 3"; its label).
    """

    path: Path
    rows: Mapping[str, tuple[str, str]]

    def error(self, remedy: str) -> UserError:
        """Return an error about the file."""
        return UserError(FIELD, self.path, remedy)


def read_labels(path: Path) -> Labels:
    """Read a CSV or JSONL file with the columns `response_id` and `label`. Others are ignored.

    Raises:
        UserError: The file cannot be read, lacks a column, or has an unknown label or a response twice.
    """
    rows: dict[str, tuple[str, str]] = {}
    labels = Labels(path, rows)
    check_is_table(FIELD, path, "labels")
    try:
        for place, response_id, label in _read_rows(path):
            if label not in IS_DEGENERATE:
                hint = did_you_mean(label, IS_DEGENERATE) or f": use one of {', '.join(IS_DEGENERATE)}"
                raise labels.error(f"{place} has the unknown label '{label}'{hint}")
            if response_id in rows:
                raise labels.error(f"{place} labels the response of {rows[response_id][0]} again: keep one of them")
            rows[response_id] = (place, label)
    except FileNotFoundError:
        raise labels.error("there is no such file") from None
    except OSError as error:
        raise labels.error(f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise labels.error(str(error)) from error
    if not rows:
        raise labels.error("holds no labels")
    return labels


def _read_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (place, response id, label) of each row. Raises ValueError for a row without one of them."""
    file_format = FORMATS[path.suffix.lower()]
    columns = file_format.columns(path)
    missing = [name for name in COLUMNS if columns and name not in columns]
    if missing:
        raise ValueError(
            f"has no column `{missing[0]}`, but {', '.join(columns)}: name two columns {' and '.join(COLUMNS)}"
        )
    for number, row in file_format.rows(path, list(COLUMNS)):
        place = f"{file_format.unit} {number}"
        response_id, label = (row.get(name) for name in COLUMNS)
        if not isinstance(response_id, str) or not isinstance(label, str):
            raise ValueError(f"{place} lacks a text as response_id or as label")
        yield place, response_id.strip(), label.strip()


def calibrate(stored: StoredSweep, labels: Labels) -> Calibration:
    """Count how often the judge `degenerate` is right about labeled responses, and store that in the sweep's study.

    The responses are those on the grids of all sweeps of the study over random directions whose norm and first judge
    are those of this sweep. A label counts once, also if its text occurs at several points.

    Args:
        stored: The sweep.
        labels: The labels.

    Raises:
        UserError: A label is of no such response, or there are too few labels.
    """
    grid = stored.sweep.grid.to_json()
    norm, judge, degenerate = stored.sweep.grid.norm, stored.sweep.judges[0], degeneracy_judge(stored)
    if reason := why_not_covered(grid, norm):
        raise UserError("sweep", stored.folder.path, f"{reason}: name a sweep over random directions")
    responses = pd.concat([_labeled_responses(other, labels) for other in _similar_sweeps(stored)])
    if unknown := [response_id for response_id in labels.rows if response_id not in set(responses["response_id"])]:
        raise labels.error(_why_unknown(stored, labels, unknown))
    labeled = _count_once(responses, labels)
    _check_enough(labels, labeled, judge)
    calibration = Calibration(
        name=labels.path.stem,
        fingerprint=stored.study.info.fingerprint,
        norm=norm,
        degenerate_id=degenerate.id,
        degenerate_version=degenerate.version,
        judge=judge,
        source=f"{labels.path.name}: {len(labeled)} labels",
        strata=make_strata(labeled),
    )
    write_calibration(stored.study, calibration.to_json())
    return calibration


def _similar_sweeps(stored: StoredSweep) -> Iterator[StoredSweep]:
    """Yield the sweeps of the study to which the same calibration applies."""
    for folder in SweepFolder.all_of(stored.study):
        other = StoredSweep.open(folder)
        is_covered = why_not_covered(other.sweep.grid.to_json(), stored.sweep.grid.norm) is None
        if is_covered and _judges(other) == _judges(stored):
            yield other


def _judges(stored: StoredSweep) -> tuple[str, str]:
    """Return the name of the first judge and the id of the judge of degeneracy."""
    return stored.sweep.judges[0], degeneracy_judge(stored).id


def _labeled_responses(stored: StoredSweep, labels: Labels) -> pd.DataFrame:
    """Return the labeled responses on a sweep's grid.

    The columns are RESPONSE_KEY, response_id, verdict and coherence as in `outcomes`, distance and max_tokens. The two
    verdicts are null for a response that the first judge has not judged.
    """
    judge, degenerate = load_judge(stored, stored.sweep.judges[0]), degeneracy_judge(stored)
    for scorer in (degenerate, judge):
        if scorer.is_text:
            score_missing(stored, scorer)
    wanted = pa.array(labels.rows, pa.string())
    distances = {
        node.point.id: float(np.hypot(node.alpha, node.beta or 0.0))
        for node in stored.sweep.grid.iter_nodes()
        if node.on_grid
    }
    judged = {key: part for key, part in stored.judged(degenerate.id).items() if key[0] in distances}
    rows = [
        table.select([*RESPONSE_KEY, "response_id"]).filter(pc.is_in(table["response_id"], wanted))
        for _, table in stored.study.judgements(degenerate.id).rows(judged)
    ]
    frame = _frame(rows, [*RESPONSE_KEY, "response_id"]).merge(_verdicts(stored, judge), on=RESPONSE_KEY, how="left")
    max_tokens = {prompts.id: prompts.sampling.max_tokens for prompts in stored.prompt_sets}
    return frame.assign(distance=frame["point_id"].map(distances), max_tokens=frame["prompt_set_id"].map(max_tokens))


def _verdicts(stored: StoredSweep, judge: Judge) -> pd.DataFrame:
    names = [*RESPONSE_KEY, "verdict", "coherence"]
    return _frame([table.select(names) for table in outcomes(stored, judge, degeneracy_judge(stored).id)], names)


def _frame(tables: list[pa.Table], names: list[str]) -> pd.DataFrame:
    empty = pa.schema([(name, pa.string()) for name in names]).empty_table()
    return pa.concat_tables([empty, *(table.cast(empty.schema) for table in tables)]).to_pandas()


def _count_once(responses: pd.DataFrame, labels: Labels) -> list[LabeledResponse]:
    """Return each labeled text that is no refusal, at the first of its places in the order of their ids."""
    each = responses.sort_values(RESPONSE_KEY).drop_duplicates("response_id")
    each = each[each["verdict"] == "complied"]
    columns = (each[name].tolist() for name in ("response_id", "distance", "max_tokens", "coherence"))
    return [
        LabeledResponse(distance, max_tokens, is_degenerate, coherence == "degenerate")
        for response_id, distance, max_tokens, coherence in zip(*columns, strict=True)
        if (is_degenerate := IS_DEGENERATE[labels.rows[response_id][1]]) is not None
    ]


def _why_unknown(stored: StoredSweep, labels: Labels, unknown: list[str]) -> str:
    """Return why responses with these ids cannot be counted, about the first of them."""
    place, more = labels.rows[unknown[0]][0], f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
    which = f"{place} labels '{unknown[0]}'{more}"
    generations = stored.study.generations
    texts = (text for _, table in generations.rows(generations.stored()) for text in table["response"].to_pylist())
    if unknown[0] in map(text_id, texts):
        return f"{which}, a response outside the grids over random directions with this norm and judge: leave it out"
    for judge_id in stored.study.judge_ids():
        judgements = stored.study.judgements(judge_id)
        parts = {key: part for part in judgements.parts() for key in part.tasks}
        if any(pc.is_in(pa.scalar(unknown[0]), table["response_id"]).as_py() for _, table in judgements.rows(parts)):
            return f"{which}, a text that no longer exists, because its response was measured again: leave it out"
    return f"{which}, which is the id of no response of the study: take ids from load_study(...).generations"


def _check_enough(labels: Labels, labeled: list[LabeledResponse], judge: str) -> None:
    """Raise UserError if a length limit, or one of the two kinds of labels, has too few labels."""
    counted = f"only responses that {judge} does not call refused count, without the label unclear"
    lengths = Counter(row.max_tokens for row in labeled)
    for max_tokens, count in sorted(lengths.items()):
        if count < MIN_LABELS:
            remedy = (
                f"has {count} labels for responses of at most {max_tokens} tokens: label at least {MIN_LABELS} or none"
            )
            raise labels.error(f"{remedy} ({counted})")
    kinds = Counter(row.degenerate for row in labeled)
    for is_degenerate, kind in ((True, "that are degenerate"), (False, "of other responses")):
        if kinds[is_degenerate] < MIN_LABELS_OF_A_KIND:
            remedy = f"has {kinds[is_degenerate]} labels {kind}: label at least {MIN_LABELS_OF_A_KIND}"
            raise labels.error(f"{remedy} ({counted})")
