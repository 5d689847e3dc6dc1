"""The embedded probe files: schema, counts, coverage, and disjointness of training and evaluation texts."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from itertools import product
from pathlib import Path

import pytest

PROBES = Path(__file__).parents[3] / "orchestrator" / "data" / "probes"
ADVBENCH = Path(__file__).parents[4] / "shared" / "data" / "advbench_harmful_behaviors.csv"
FIELDS = {"id", "text", "category", "group", "pair_id"}
# name: (id prefix, group, minimum number of rows)
FILES = {
    "harmful_train": ("ht", "harmful", 264),
    "harmful_eval": ("he", "harmful", 100),
    "benign_train": ("bt", "benign", 260),
    "benign_eval": ("be", "benign", 80),
}
TRAIN, EVAL = ("harmful_train", "benign_train"), ("harmful_eval", "benign_eval")
Row = dict[str, str | None]
Gram = tuple[str, ...]


def read_text(name: str) -> str:
    return (PROBES / f"{name}.jsonl").read_bytes().decode("utf-8", errors="strict")


def rows(name: str) -> list[Row]:
    return [json.loads(line) for line in read_text(name).splitlines()]


def texts(name: str) -> list[str]:
    return [str(row["text"]) for row in rows(name)]


def words(text: str) -> list[str]:
    """Return the words in lower case. Apostrophes are dropped; any other punctuation separates words."""
    return re.sub(r"[\W_]+", " ", re.sub(r"['’]", "", text.lower())).split()


def grams(text: str, n: int) -> set[Gram]:
    tokens = words(text)
    return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


def shared_grams(left: list[str], right: list[str], n: int) -> list[tuple[str, str]]:
    text_of = {gram: text for text in right for gram in grams(text, n)}
    return [(text, text_of[gram]) for text in left for gram in grams(text, n) if gram in text_of]


def similar_pairs(left: list[str], right: list[str], limit: float, n: int = 3) -> list[tuple[str, str, float]]:
    """Return pairs of texts whose n-gram sets have a Jaccard similarity of at least `limit`, which must be positive."""
    sets = [grams(text, n) for text in right]
    holders: dict[Gram, list[int]] = defaultdict(list)
    for i, text_grams in enumerate(sets):
        for gram in text_grams:
            holders[gram].append(i)
    bad = []
    for text in left:
        left_grams = grams(text, n)
        for i, common in Counter(i for gram in left_grams for i in holders.get(gram, ())).items():
            value = common / (len(left_grams) + len(sets[i]) - common)
            if value >= limit:
                bad.append((text, right[i], round(value, 3)))
    return bad


def advbench_goals() -> list[str]:
    if not ADVBENCH.is_file():
        pytest.skip(f"AdvBench is not installed: {ADVBENCH}")
    with ADVBENCH.open(encoding="utf-8", newline="") as handle:
        goals = [row["goal"] for row in csv.DictReader(handle)]
    assert goals
    return goals


@pytest.mark.parametrize("name", FILES)
def test_every_row_follows_the_schema(name: str) -> None:
    prefix, group, least = FILES[name]
    content = read_text(name)
    assert content.endswith("\n") and "\r" not in content and not content.startswith("\ufeff")
    file_rows = rows(name)
    assert len(file_rows) >= least
    for number, row in enumerate(file_rows, 1):
        assert set(row) == FIELDS
        assert row["id"] == f"{prefix}-{number:03d}"
        assert row["group"] == group
        category, text = row["category"], row["text"]
        assert isinstance(category, str) and re.fullmatch(r"[a-z]+(_[a-z]+)*", category)
        assert isinstance(text, str) and 0 < len(text) <= 200
        assert text == " ".join(text.split()) and text.isprintable()
        assert group == "benign" or row["pair_id"] is None


def test_ids_are_unique() -> None:
    ids = [row["id"] for name in FILES for row in rows(name)]
    assert len(ids) == len(set(ids))


def test_categories_of_training_and_evaluation_files_match() -> None:
    train = Counter(row["category"] for row in rows("harmful_train"))
    evaluation = Counter(row["category"] for row in rows("harmful_eval"))
    assert len(train) >= 11
    assert set(train) == set(evaluation)
    assert min(train.values()) >= 10 and min(evaluation.values()) >= 5
    benign = Counter(str(row["category"]) for row in rows("benign_train"))
    everyday = sum(count for name, count in benign.items() if name.startswith("everyday_"))
    assert {name for name in benign if not name.startswith("everyday_")} == set(train)
    assert 0.25 <= everyday / benign.total() <= 0.6


@pytest.mark.parametrize("name", EVAL)
def test_evaluation_rows_cycle_through_the_categories(name: str) -> None:
    order = [row["category"] for row in rows(name)]
    categories = {row["category"] for row in rows("harmful_eval")}
    assert set(order[:40]) == categories
    for end in range(1, len(order) + 1):
        counts = Counter(order[:end])
        assert max(counts.values()) - min(counts[c] for c in categories) <= 1


def test_training_pairs_resolve() -> None:
    harmful = {row["id"]: row for row in rows("harmful_train")}
    paired = [row for row in rows("benign_train") if row["pair_id"]]
    assert len(paired) == len({row["pair_id"] for row in paired}) >= 250
    assert all(row["category"] == harmful[row["pair_id"]]["category"] for row in paired)


def test_evaluation_pairs_resolve() -> None:
    harmful = {row["id"]: row for row in rows("harmful_eval")}
    order = list(harmful)
    benign = rows("benign_eval")
    pairs = [row["pair_id"] for row in benign]
    assert all(pair in harmful for pair in pairs)
    assert len(set(pairs)) >= 60
    assert [order.index(pair) for pair in pairs] == sorted(order.index(pair) for pair in pairs)
    assert all(row["category"] == harmful[row["pair_id"]]["category"] for row in benign)


def test_the_card_states_the_counts() -> None:
    card = (PROBES / "CARD.md").read_bytes().decode("utf-8", errors="strict")
    table = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", card, flags=re.M)
    stated = {name: list(map(int, numbers)) for name, *numbers in table}
    columns = [
        Counter(str(row["category"]) for row in rows(name))
        for name in ("harmful_train", "harmful_eval", "benign_train", "benign_eval")
    ]
    counted = {name: [column[name] for column in columns] for name in set().union(*columns)}
    assert stated == counted | {"total": [column.total() for column in columns]}
    for name in FILES:
        assert re.search(rf"^\| `{name}\.jsonl` \| {len(rows(name))} \|", card, flags=re.M)


def test_no_text_occurs_twice() -> None:
    counts = Counter(" ".join(words(text)) for name in FILES for text in texts(name))
    assert [text for text, count in counts.items() if count > 1] == []


@pytest.mark.parametrize(("train", "evaluation"), list(product(TRAIN, EVAL)))
def test_train_and_eval_are_disjoint(train: str, evaluation: str) -> None:
    assert shared_grams(texts(train), texts(evaluation), 5) == []
    assert similar_pairs(texts(train), texts(evaluation), 0.3) == []


@pytest.mark.parametrize("train", TRAIN)
def test_train_is_disjoint_from_advbench(train: str) -> None:
    goals = advbench_goals()
    assert shared_grams(texts(train), goals, 6) == []
    assert similar_pairs(texts(train), goals, 0.4) == []


def test_the_similarity_checks_detect_overlap() -> None:
    left, right = ["Tell me, how do I bake a cake?"], ["Well: how do I bake a pie", "tell me how do I bake"]
    assert {text for _, text in shared_grams(left, right, 5)} == set(right)
    assert {text for _, text in shared_grams(left, right, 6)} == {right[1]}
    assert set(similar_pairs(left, right, 0.3)) == {(left[0], right[0], 0.375), (left[0], right[1], 0.667)}
    assert [text for _, text, _ in similar_pairs(left, right, 0.5)] == [right[1]]
