"""Counts of verdicts by task, and refusals by point and probe."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.scoring import counts as counting


def judged_rows(seed: int = 0) -> list[tuple[str, str, str, str, str]]:
    rng = random.Random(seed)
    return [
        (
            f"p{rng.randrange(5)}",
            f"s{rng.randrange(2)}",
            f"q{i}",
            rng.choice(["refused", "complied"]),
            rng.choice(counting.COHERENCE),
        )
        for i in range(2000)
    ]


def as_tables(rows: list[tuple[str, str, str, str, str]], size: int) -> Iterator[pa.Table]:
    for batch in _batched(rows, size):
        columns = list(zip(*batch, strict=True))
        yield pa.table(columns_of(columns))


def columns_of(columns: list[tuple]) -> dict[str, list]:
    names = ["point_id", "prompt_set_id", "prompt_id", "verdict", "coherence"]
    return {name: list(column) for name, column in zip(names, columns, strict=True)}


def _batched(rows: list, size: int) -> Iterator[list]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def test_responses_that_are_not_finite_are_outside_of_n() -> None:
    rows = [(f"p{i % 2}", "s", f"q{i}", "refused" if i % 3 else "complied", "coherent") for i in range(12)]
    rows += [("p0", "s", f"q{i}", "nonfinite", None) for i in range(12, 15)] + [("p2", "s", "q0", "nonfinite", None)]
    frame = counting.counts(as_tables(rows, 5)).set_index("point_id").sort_index()
    assert frame["n"].tolist() == [6, 6, 0] and frame["n_nonfinite"].tolist() == [3, 0, 1]
    assert frame["n_refused"].tolist() == [4, 4, 0] and frame["n_complied"].tolist() == [2, 2, 0]
    assert frame[["n_degenerate", "n_unclear"]].to_numpy().sum() == 0


@pytest.mark.parametrize("size", [7, 500, 2000])
def test_counts_do_not_depend_on_how_rows_are_split_into_tables(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_FLUSH_ROWS", 50)
    rows = judged_rows()
    expected: dict[tuple[str, str], list[int]] = {}
    classes = {"coherent": 2, "degenerate": 3, "unclear": 4}
    for point, prompts, _, verdict, coherence in rows:
        expected_counts = expected.setdefault((point, prompts), [0, 0, 0, 0, 0])
        expected_counts[0] += 1
        expected_counts[1 if verdict == "refused" else classes[coherence]] += 1
    counts = counting.counts(as_tables(rows, size))
    result = {
        (r.point_id, r.prompt_set_id): [r.n, r.n_refused, r.n_complied, r.n_degenerate, r.n_unclear]
        for r in counts.itertuples()
    }
    assert result == expected
    assert set(counts["judge"]) == {"keyword"}
    assert (counts[counting.SUMS[1:]].sum(axis=1) == counts["n"]).all()


@pytest.mark.parametrize("coherence", counting.COHERENCE)
def test_a_refusal_counts_as_a_refusal_whatever_its_coherence(coherence: str) -> None:
    table = pa.table(columns_of([("p",), ("s",), ("q",), ("refused",), (coherence,)]))
    assert counting.counts([table]).iloc[0][counting.SUMS].tolist() == [1, 1, 0, 0, 0]


def test_unknown_and_missing_verdicts_are_errors() -> None:
    keys = ("p",), ("s",), ("q",)
    for verdict in ("unsure", None):
        with pytest.raises(ValueError, match="verdicts"):
            counting.counts([pa.table(columns_of([*keys, (verdict,), ("coherent",)]))])
    for coherence in ("poor", None):
        with pytest.raises(ValueError, match="verdicts on coherence other than coherent"):
            counting.counts([pa.table(columns_of([*keys, ("refused",), (coherence,)]))])


def test_judges_are_counted_separately() -> None:
    table = pa.table(
        columns_of(
            [
                ("p", "p"),
                ("s", "s"),
                ("q", "q"),
                ("refused", "complied"),
                ("coherent", "coherent"),
            ]
        )
    )
    both = counting.counts([table.append_column("judge", pa.array(["keyword", "other"]))])
    assert dict(zip(both["judge"], both["n_refused"], strict=True)) == {
        "keyword": 1,
        "other": 0,
    }


def test_the_memory_of_counting_does_not_grow_with_rows() -> None:
    """Memory grows with the number of tasks: a million rows of ten tasks allocate almost nothing."""
    batch = pa.table(
        {
            "point_id": [f"p{i % 10}" for i in range(10_000)],
            "prompt_set_id": ["s"] * 10_000,
            "prompt_id": [f"q{i}" for i in range(10_000)],
            "verdict": ["refused", "complied"] * 5_000,
            "coherence": ["coherent"] * 10_000,
        }
    )
    allocated, peaks = pa.total_allocated_bytes(), []

    def stream() -> Iterator[pa.Table]:
        for _ in range(100):
            peaks.append(pa.total_allocated_bytes() - allocated)
            yield batch

    assert counting.counts(stream())["n"].tolist() == [100_000] * 10
    assert max(peaks[50:]) < 2 * batch.nbytes


def test_verdicts_do_not_depend_on_how_rows_are_split_into_tables() -> None:
    rows = judged_rows()
    for size in (7, 2000):
        verdicts_by_key = counting.probe_refusals(as_tables(rows, size))
        assert {key: verdicts.refused.shape for key, verdicts in verdicts_by_key.items()} == {
            (s, "keyword"): (5, len({r[2] for r in rows if r[1] == s})) for s in ("s0", "s1")
        }
        for point, set_id, prompt, verdict, _ in rows[::40]:
            verdicts = verdicts_by_key[set_id, "keyword"]
            assert verdicts.at([point], [prompt]).item() == (verdict == "refused")
        assert np.nansum(verdicts_by_key["s0", "keyword"].refused) == sum(
            r[1] == "s0" and r[3] == "refused" for r in rows
        )
        missing = verdicts_by_key["s0", "keyword"].at(["p0", "nowhere"], ["q0", "never asked"])
        assert np.isnan(missing[1]).all() and np.isnan(missing[:, 1]).all()
