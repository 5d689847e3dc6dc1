"""A study: a resident model and everything ever observed around it, in one folder.

    <out>/<model>-<id8>/
      study.json  directions/  prompts/  generations/  judgements/<judge>/  log_probabilities/  human/
      calibration.json  sweeps/<name>-<id8>/  events/  signed/  damaged/
    <out>/.tmp/     where files are written before they are renamed into place

A file counts because it verifies (its own metadata, page checksums, row count, content hash), never because a listing
shows it. Every write is atomic and idempotent by id, and rows are deduplicated on reading.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.store.directions import Directions
from orchestrator.store.events import EventLog
from orchestrator.store.files import (
    DamagedFileError,
    MissingFileError,
    check_owner,
    check_writable,
    create_study_folder,
    publish_json,
    read_json,
    translate_read_errors,
)
from orchestrator.store.log_probabilities import LogProbabilities
from orchestrator.store.observations import Generations, Judgements
from orchestrator.store.prompt_sets import PromptSets
from orchestrator.store.study_folder import StudyFolder
from orchestrator.utils.choices import StudyMode
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id
from orchestrator.utils.names import safe_name
from orchestrator.utils.records import check_types


@dataclass(frozen=True)
class StudyInfo:
    """The model that a study perturbs. The study's id is a hash of `fingerprint`, `dtype` and `noise_version`.

    Attributes:
        model: The model's name.
        fingerprint: Content hash of the weights.
        dtype: The dtype of the weights in the engine.
        noise_version: Version of the random directions.
        source: Where the weights come from, as in `ResolvedModel`.
        revision: The hub's commit, or the version of the embedded model's package. None for a folder.
    """

    model: str
    fingerprint: str
    dtype: str
    noise_version: int
    source: str = ""
    revision: str | None = None

    @property
    def id(self) -> str:
        """The study's id."""
        return content_id([self.fingerprint, self.dtype, self.noise_version])

    def to_json(self) -> dict[str, Any]:
        """Return the document that is stored as study.json."""
        return {
            "schema": "study/1",
            "study_id": self.id,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "dtype": self.dtype,
            "noise_version": self.noise_version,
            "source": self.source,
            "revision": self.revision,
        }

    @classmethod
    def read(cls, path: Path) -> StudyInfo:
        """Read a study.json. Raises DamagedFileError if it does not verify or its fields do not hash to its id."""
        document = read_json(path)
        with translate_read_errors(path):
            if content_id([document[key] for key in ("fingerprint", "dtype", "noise_version")]) != document["study_id"]:
                raise DamagedFileError(f"{path}: its study_id is not that of its model")
            info = cls(
                model=document["model"],
                fingerprint=document["fingerprint"],
                dtype=document["dtype"],
                noise_version=document["noise_version"],
                source=document.get("source", ""),
                revision=document.get("revision"),
            )
            return check_types(info)


class Study(StudyFolder):
    """A resident model and everything ever observed around it.

    Attributes:
        generations: The stored responses.
        prompt_sets: The stored prompt sets.
        directions: The stored scalars of directions.
        log_probabilities: The log-probabilities of stored responses under the unperturbed model.
    """

    def __init__(self, root: Path, study_id: str, moves_damaged: bool = False) -> None:
        super().__init__(root, study_id, moves_damaged)
        self.generations = Generations(self)
        self.prompt_sets = PromptSets(self)
        self.directions = Directions(self)
        self.log_probabilities = LogProbabilities(self)

    @classmethod
    def locate(cls, out: Path, info: StudyInfo) -> Study:
        """Return the study where it is or would be, without touching the disk."""
        return cls(out / f"{safe_name(info.model)}-{info.id[:8]}", info.id)

    @classmethod
    def create(cls, out: Path, info: StudyInfo, mode: StudyMode | Path = StudyMode.private) -> Study:
        """Open a study for writing. Writes its study.json if it is new.

        Args:
            out: The root of studies.
            info: The study's identity.
            mode: To whom a new study is open; a folder: to those to whom that folder is open.

        Raises:
            UserError: `out` cannot hold the study, or another user may have placed a study there.
        """
        check_writable(out)
        study = cls(cls.locate(out, info).root, info.id, moves_damaged=True)
        path = study.root / "study.json"
        try:
            if StudyInfo.read(path).id == info.id:
                check_owner(out, study.root, mode)
                return study
            raise DamagedFileError(f"{path}: belongs to another study")
        except MissingFileError:
            pass
        except DamagedFileError as error:
            study.reject(path, error)
        create_study_folder(out, study.root, mode)
        check_owner(out, study.root, mode)
        publish_json(out, path, info.to_json())
        return study

    @classmethod
    def open(cls, root: Path) -> Study:
        """Open the study stored in a folder for reading. Raises UserError if it has no study.json that verifies."""
        try:
            return cls(root, StudyInfo.read(root / "study.json").id)
        except MissingFileError as error:
            raise UserError("study", root, "no study.json in that folder; name a study's folder") from error
        except DamagedFileError as error:
            remedy = f"its study.json does not verify ({error}); `run` writes it again"
            raise UserError("study", root, remedy) from error

    @property
    def exists(self) -> bool:
        """True if the study is stored already."""
        return is_study(self.root)

    @functools.cached_property
    def info(self) -> StudyInfo:
        """The stored study.json. Raises DamagedFileError."""
        return StudyInfo.read(self.root / "study.json")

    def judgements(self, judge_id: str) -> Judgements:
        """Return the verdicts of one judge."""
        return Judgements(self, judge_id)

    def judge_ids(self) -> list[str]:
        """Return the ids of the judges whose verdicts are stored."""
        return [path.name for path in sorted((self.root / "judgements").glob("*"))]

    def events(self, run: str) -> EventLog:
        """Return the event log of a driver run."""
        return EventLog(self.path("events", f"{run}.jsonl"))


def is_study(root: Path) -> bool:
    """Return whether there is a study in that folder."""
    return (root / "study.json").is_file()
