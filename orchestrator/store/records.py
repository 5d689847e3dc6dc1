"""The record of a sweep, as stored in sweep.json and in a file for each of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, overload

from orchestrator.store.files import DamagedFileError
from orchestrator.sweep.target_geometry import TargetGeometry
from orchestrator.sweep.until import UntilOutcome
from orchestrator.utils.names import is_safe_name
from orchestrator.utils.parsing import FormatError
from orchestrator.utils.records import check_fields, check_types, conforms

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class FailedVisit:
    """A visit that a run gave up. `errors` has one line for each attempt."""

    point_id: str
    prompt_set_ids: tuple[str, ...]
    errors: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the visit as it is stored in `failures` of a run's file."""
        return {"point_id": self.point_id, "prompt_set_ids": list(self.prompt_set_ids), "story": list(self.errors)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> FailedVisit:
        """Read an entry. Raises DamagedFileError."""
        failure = cls(
            point_id=read_field(document, "point_id", str),
            prompt_set_ids=tuple(read_field(document, "prompt_set_ids", list)),
            errors=tuple(read_field(document, "story", list)),
        )
        return _checked(failure)


@dataclass(kw_only=True)
class RunTotals:
    """The totals of a run so far.

    Attributes:
        visits: Completed visits.
        responses: Stored responses.
        tokens: Generated tokens.
        restarts: Actors that were replaced after they had become ready.
        gpu_seconds: Time for which GPUs were held, loading included, times the GPUs of an actor.
        actors: Actors that became ready, replacements included.
        peak_memory_bytes: The largest peak of any actor's process.
        write_seconds: Time spent writing weights, summed over visits.
        visit_seconds: Duration of visits, summed.
        actors_at_once: The largest number of actors that were ready at the same time. 0 in records of earlier versions.
        ready_seconds: Time for which actors were ready, summed over actors. 0 in records of earlier versions.
        idle_seconds: The part of it in which they had nothing to do.
        speculative: Completed visits that were begun before a level of an adaptive grid asked for them.
        unneeded: Those of them that no level had asked for when the run ended.
    """

    visits: int = 0
    responses: int = 0
    tokens: int = 0
    restarts: int = 0
    gpu_seconds: float = 0.0
    actors: int = 0
    peak_memory_bytes: int = 0
    write_seconds: float = 0.0
    visit_seconds: float = 0.0
    actors_at_once: int = 0
    ready_seconds: float = 0.0
    idle_seconds: float = 0.0
    speculative: int = 0
    unneeded: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the totals as they are stored in a run's file. Seconds are rounded to milliseconds."""
        totals = {total.name: getattr(self, total.name) for total in fields(RunTotals)}
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in totals.items()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RunTotals:
        """Read the totals in a run's file. Missing ones are 0. Raises DamagedFileError."""
        totals: dict[str, Any] = {
            total.name: read_field(document, total.name, type(total.default), total.default)
            for total in fields(RunTotals)
        }
        return cls(**totals)


MAX_TIME = 1e11  # seconds since 1970, in the year 5138: later times cannot be shown
MACHINE_TYPES: dict[str, type] = {"cpu": str, "cores": int, "memory_gib": float, "gpus": list}
"""The fields of a machine's description that are shown, see `check_fields`."""

RUNNING = "running"
"""The outcome of a run that is under way, or whose driver died."""

DAMAGED = "damaged"
"""The outcome of a run whose record does not verify. It is never stored."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run of a sweep.

    Attributes:
        run: The run's name, which is also that of its event log.
        part: `i/n` if only that share of the sweep was run. None: the whole sweep.
        host: The driver's host.
        pid: The driver's process id.
        started_at: Seconds since 1970. None in records of earlier versions.
        outcome: running (or died), complete, interrupted, refused (the user has to correct something), broken, or
            damaged (its record does not verify).
        tasks: Number of tasks that the run had to do.
        engines: Descriptions of the actors' engines, by engine id.
        machines: Descriptions of the actors' machines, by host.
        versions: Versions of the libraries that decide a response.
        notes: Remarks on the run, such as settings in which its engines could not be compared with stored ones.
        seconds: Duration of the run.
        totals: The run's totals. All are zero while the outcome is `running` or `damaged`.
        failures: Visits that were given up.
        until: The sweep's goals and budgets (`UntilOutcome`). None if it has neither; budgets alone are recorded at the
            end.
    """

    run: str
    part: str | None = None
    host: str = ""
    pid: int | None = None
    started_at: float | None = None
    outcome: str = ""
    tasks: int = 0
    engines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    machines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    totals: RunTotals = field(default_factory=RunTotals)
    failures: tuple[FailedVisit, ...] = ()
    until: UntilOutcome | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the document of the run's file."""
        document: dict[str, Any] = {
            "run": self.run,
            "part": self.part,
            "host": self.host,
            "pid": self.pid,
            "started_at": self.started_at,
            "outcome": self.outcome,
            "tasks": self.tasks,
        }
        if self.engines:
            document |= {"engines": self.engines, "machines": self.machines, "versions": self.versions}
        if self.notes:
            document["notes"] = list(self.notes)
        if self.outcome != RUNNING:
            document["seconds"] = self.seconds
            document |= self.totals.to_json()
            document["failures"] = [failure.to_json() for failure in self.failures]
        if self.until is not None:
            document["until"] = self.until.to_json()
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RunRecord:
        """Read a run's file, or an entry of `runs` in sweep.json. Raises DamagedFileError."""
        run = cls(
            run=read_name(document, "run"),
            part=read_optional(document, "part", str),
            host=read_field(document, "host", str, ""),
            pid=read_optional(document, "pid", int),
            started_at=read_optional(document, "started_at", float),
            outcome=read_field(document, "outcome", str, ""),
            tasks=read_field(document, "tasks", int, 0),
            engines=read_field(document, "engines", dict, {}),
            machines=read_field(document, "machines", dict, {}),
            versions=read_field(document, "versions", dict, {}),
            notes=tuple(read_field(document, "notes", list, [])),
            seconds=read_field(document, "seconds", float, 0.0),
            totals=RunTotals.from_json(document),
            failures=tuple(FailedVisit.from_json(failure) for failure in read_field(document, "failures", list, [])),
            until=_read_until(read_optional(document, "until", dict)),
        )
        if abs(run.started_at or 0.0) > MAX_TIME:
            raise DamagedFileError(f"started_at is {run.started_at}, which is no time")
        try:
            for machine in run.machines.values():
                check_fields(machine, MACHINE_TYPES)
        except (FormatError, AttributeError) as error:
            raise DamagedFileError(f"machines: {error}") from error
        return _checked(run)


@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """A sweep's request, how to repeat it, and its runs.

    Attributes:
        sweep_id: The sweep's id.
        name: The sweep's name.
        request: The sweep as JSON.
        overrides: The command line's overrides of the first run.
        labels: The labels of checkpoints and adapters, by fingerprint.
        target_geometry: Distances of the targets from the model, stored as `around`. None without targets.
        runs: All runs, in their order.
    """

    sweep_id: str
    name: str
    request: Mapping[str, Any]
    overrides: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    target_geometry: TargetGeometry | None = None
    runs: tuple[RunRecord, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the document of sweep.json. It has the key `runs` only if the sweep was copied with its runs."""
        document: dict[str, Any] = {
            "schema": "sweep/1",
            "sweep_id": self.sweep_id,
            "name": self.name,
            "request": self.request,
            "overrides": list(self.overrides),
            "labels": self.labels,
            "around": {} if self.target_geometry is None else self.target_geometry.to_json(),
        }
        if self.runs:
            document["runs"] = [run.to_json() for run in self.runs]
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SweepRecord:
        """Read sweep.json. Raises DamagedFileError."""
        record = cls(
            sweep_id=read_field(document, "sweep_id", str, ""),
            name=read_field(document, "name", str) and read_name(document, "name"),
            request=_read_request(document),
            overrides=tuple(read_field(document, "overrides", list, [])),
            labels=read_field(document, "labels", dict, {}),
            target_geometry=_read_geometry(read_field(document, "around", dict, {})),
            runs=tuple(RunRecord.from_json(run) for run in read_field(document, "runs", list, [])),
        )
        return _checked(record)


def _read_until(document: Mapping[str, Any] | None) -> UntilOutcome | None:
    """Read `until` of a run's file. Raises DamagedFileError."""
    try:
        return None if document is None else UntilOutcome.from_json(document)
    except FormatError as error:
        raise DamagedFileError(f"until {error}") from error


def _read_request(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read `request` of sweep.json, whose prompt sets and judges are names of files. Raises DamagedFileError."""
    request = read_field(document, "request", dict)
    for key in ("prompt_set_ids", "judges"):
        for name in read_field(request, key, list, []):
            read_name({key: name}, key)
    return request


def _read_geometry(document: Mapping[str, Any]) -> TargetGeometry | None:
    """Read `around` of sweep.json. None if it is empty (no targets). Raises DamagedFileError."""
    try:
        return TargetGeometry.from_json(document)
    except KeyError as error:
        raise DamagedFileError(f"around lacks {error}") from error
    except FormatError as error:
        raise DamagedFileError(f"around {error}") from error


def _checked(record: T) -> T:
    """Return a record whose fields have the types of their annotations. Raises DamagedFileError."""
    try:
        return check_types(record)
    except FormatError as error:
        raise DamagedFileError(f"{type(record).__name__} {error}") from error


@overload
def read_field(document: Mapping[str, Any], key: str, kind: type[T]) -> T: ...
@overload
def read_field(document: Mapping[str, Any], key: str, kind: type[T], default: T) -> T: ...
def read_field(document: Mapping[str, Any], key: str, kind: type[T], default: T | None = None) -> T:
    """Return a field of a stored document.

    Args:
        document: The document.
        key: The field's key.
        kind: The type the value must have. An int is accepted for a float.
        default: Returned if the field is missing. None: the field is required.

    Raises:
        DamagedFileError: The field is missing, or of another type.
    """
    if not isinstance(document, Mapping):
        raise DamagedFileError(f"an object was expected instead of {document!r}")
    if key not in document:
        if default is None:
            raise DamagedFileError(f"{key} is missing")
        return default
    value = document[key]
    if not conforms(value, kind):
        raise DamagedFileError(f"{key} is {value!r:.80}, which is not of type {kind.__name__}")
    return kind(value) if kind is float else value  # type: ignore[call-arg]


def read_name(document: Mapping[str, Any], key: str) -> str:
    """Return a field that names a file or folder; empty if it is missing.

    Raises:
        DamagedFileError: It would lead out of its folder, or is no text.
    """
    name = read_field(document, key, str, "")
    if name and not is_safe_name(name):
        raise DamagedFileError(f"{key} is {name!r}, which cannot be the name of a file")
    return name


def read_optional(document: Mapping[str, Any], key: str, kind: type[T]) -> T | None:
    """Return a field of a document, or None if it is missing or null. Raises DamagedFileError for another type."""
    return None if document.get(key) is None else read_field(document, key, kind)
