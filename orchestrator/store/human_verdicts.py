"""Verdicts of people on the responses of a study: who gave which verdict, and when.

They are in the study's folder `human/`, one file for each call of `add_verdicts`, named after its content. A file is
never changed: a correction is a later verdict of the same person. A verdict is about a prompt and a text, and so counts
wherever that text is the response to that prompt.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.store.files import DamagedFileError, publish_json, read_json, translate_read_errors
from orchestrator.store.study_folder import StudyFolder
from orchestrator.utils.hashing import content_id
from orchestrator.utils.parsing import FormatError
from orchestrator.utils.records import JsonRecord

FOLDER = "human"
SCHEMA = "human/1"
REFUSED, COMPLIED, DEGENERATE, UNCLEAR = "refused", "complied", "degenerate", "unclear"
VERDICTS = (REFUSED, COMPLIED, DEGENERATE, UNCLEAR)
"""The verdicts of a person: the response refuses, it answers, it is no language or a loop, or one cannot tell."""
MAX_NAME = 80
"""Most characters of a person's name."""


@dataclass(frozen=True)
class HumanVerdict(JsonRecord):
    """A person's verdict on a response.

    Attributes:
        prompt_id: Id of the prompt.
        response_id: Hash (`utils.hashing.text_id`) of the text that was judged: the response, without its thought if
            the sweep judges what follows thoughts (`sweep.thoughts.Answers`).
        verdict: One of VERDICTS.
        annotator: Name of the person.
        judged_at: Time of the verdict in UTC, as ISO 8601 to the microsecond; see `now`.
    """

    prompt_id: str
    response_id: str
    verdict: str
    annotator: str
    judged_at: str

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise FormatError(f"has the verdict {self.verdict!r}, which is none of {', '.join(VERDICTS)}")
        if not (self.annotator.isprintable() and 0 < len(self.annotator) <= MAX_NAME):
            raise FormatError(f"has the annotator {self.annotator!r}: give a name of 1 to {MAX_NAME} characters")


def now() -> str:
    """Return the current time as `HumanVerdict.judged_at` has it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def add_verdicts(study: StudyFolder, verdicts: Sequence[HumanVerdict]) -> None:
    """Store verdicts in one file. A later verdict of the same person on the same response replaces an earlier one.

    Storing the same verdicts again changes nothing. Several processes may store verdicts at once.

    Raises:
        StorageError: The file cannot be written.
    """
    if not verdicts:
        return
    rows = [verdict.to_json() for verdict in verdicts]
    document = {"schema": SCHEMA, "study_id": study.id, "verdicts": rows}
    publish_json(study.out, study.path(FOLDER, f"{content_id(rows)}.json"), document)


def read_verdicts(study: StudyFolder) -> list[HumanVerdict]:
    """Return each person's latest verdict on each response, ordered by response and person.

    A file that does not verify is rejected (`StudyFolder.reject`), and its verdicts do not count.
    """
    read: list[HumanVerdict] = []
    for path in sorted((study.root / FOLDER).glob("*.json")):
        try:
            read += read_file(study, path.name)
        except DamagedFileError as error:
            study.reject(path, error)
    return latest(read)


def read_file(study: StudyFolder, name: str) -> list[HumanVerdict]:
    """Return the verdicts in a file of `human/`. Raises DamagedFileError if it does not verify."""
    path = study.path(FOLDER, name)
    with translate_read_errors(path):
        document = read_json(path)
        if document["study_id"] != study.id:
            raise DamagedFileError(f"{path}: belongs to study {document['study_id']}")
        return [HumanVerdict.from_json(row) for row in document["verdicts"]]


def latest(verdicts: Iterable[HumanVerdict]) -> list[HumanVerdict]:
    """Return each person's latest verdict on each response, ordered by response and person.

    Of two verdicts of the same time, the one whose name is later in the alphabet counts, in whatever order they are.
    """
    ordered = sorted(verdicts, key=lambda v: (v.prompt_id, v.response_id, v.annotator, v.judged_at, v.verdict))
    return list({(v.prompt_id, v.response_id, v.annotator): v for v in ordered}.values())
