"""The JSON documents that verbs print with `--json`: each has a key `schema` with its name and version, such as plan/1.

A document may get more keys under the same version. If a key is removed, or if its type or meaning changes, the version
is raised and CHANGELOG.md says so. The documents of `run`, `judge` and `reduce` (summary/1) and of `compare`
(comparison/1) are defined where they are made. `python -m scripts.write_schemas` writes a JSON Schema of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.utils.records import JsonRecord

PLAN = "plan/1"
STATUS = "status/1"
VERIFICATION = "verification/1"
COMPACTION = "compaction/1"
FINDING = "finding/1"
MODEL = "model/1"


def stamped(schema: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with its schema's name as the first key."""
    return {"schema": schema, **document}


@dataclass(frozen=True, kw_only=True)
class Mistake(JsonRecord):
    """The user's mistake that ended a verb with exit code 2.

    Attributes:
        field: The option or argument that is wrong.
        value: Its value, as text.
        remedy: The fault and its correction.
    """

    field: str
    value: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Error(JsonRecord):
    """The document of any verb that ends with exit code 2, instead of its own."""

    schema: str = "error/1"
    error: Mistake


@dataclass(frozen=True, kw_only=True)
class Part(JsonRecord):
    """The document of `run` with cluster.part if other parts of the sweep are not complete.

    Attributes:
        part: The value of cluster.part.
        waits_for: Numbers of the parts that have to be run before the sweep has results.
        points_left: Number of points of the whole sweep that are not measured.
    """

    schema: str = "part/1"
    part: str | None
    waits_for: tuple[int, ...]
    points_left: int


@dataclass(frozen=True, kw_only=True)
class Script(JsonRecord):
    """The job script that `run cluster=slurm cluster.dry_run=true` would submit."""

    schema: str = "script/1"
    script: str


@dataclass(frozen=True, kw_only=True)
class Job(JsonRecord):
    """The job that `run cluster=slurm` submitted.

    Attributes:
        job: The number that SLURM gave it.
        log: Name of its log file.
        command: The command that shows its progress. Its key in JSON is "follow it with".
    """

    schema: str = "job/1"
    job: str
    log: str
    command: str

    def to_json(self) -> dict[str, Any]:
        """Return the document as JSON values."""
        return {_FOLLOW if key == "command" else key: value for key, value in super().to_json().items()}

    @classmethod
    def json_types(cls) -> dict[str, tuple[Any, bool]]:
        """Return the type of each key, and whether it is always there."""
        return {_FOLLOW if key == "command" else key: value for key, value in super().json_types().items()}


_FOLLOW = "follow it with"


@dataclass(frozen=True, kw_only=True)
class Responses(JsonRecord):
    """The file of responses that `judge export=FILE` wrote.

    Attributes:
        file: Path of the CSV file.
        responses: Number of its rows.
    """

    schema: str = "responses/1"
    file: str
    responses: int


@dataclass(frozen=True, kw_only=True)
class Report(JsonRecord):
    """The report that `report` wrote.

    Attributes:
        report: Path of report.html.
    """

    schema: str = "report/1"
    report: str


@dataclass(frozen=True, kw_only=True)
class Export(JsonRecord):
    """The file or folder that `export` wrote.

    Attributes:
        format: Name of the format.
        sweep: Path of the sweep's folder.
        written: Path of the file or folder.
    """

    schema: str = "export/1"
    format: str
    sweep: str
    written: str


@dataclass(frozen=True, kw_only=True)
class View(JsonRecord):
    """The address that `view` prints, in one line, when it can be reached.

    Attributes:
        address: URL of the viewer.
    """

    schema: str = "view/1"
    address: str


@dataclass(frozen=True, kw_only=True)
class Bundle(JsonRecord):
    """The pages that `view bundle=DIR` wrote.

    Attributes:
        bundle: Path of the bundle's index.html.
        left_out: One sentence for each sweep that could not be read.
    """

    schema: str = "bundle/1"
    bundle: str
    left_out: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Preset(JsonRecord):
    """A preset that `models` lists.

    Attributes:
        name: Name of the preset.
        source: Id on the hub, path, or "embedded". None if the preset names none.
        revision: Commit of the hub.
        parameters: Number of parameters. None if unknown.
        dtype: Dtype that the weights are loaded in.
        gated: Whether the hub asks for consent to a license.
        license: Its license.
        path: Folder of the weights. None if they are not on this machine.
    """

    schema: str = "preset/1"
    name: str
    source: str | None
    revision: str | None
    parameters: int | None
    dtype: str
    gated: bool
    license: str
    path: str | None


@dataclass(frozen=True, kw_only=True)
class Checkpoint(JsonRecord):
    """A checkpoint that `geometry` measured.

    Attributes:
        distance: Distance from the model, in units of alpha: a random direction of that alpha moves the weights as far.
        share: Distance as a share of the norm of the model's weights, 0 to 1 or more.
        rounding: Share of the distance that rounding to the engine's dtype adds.
    """

    name: str
    path: str
    distance: float
    share: float
    rounding: float


@dataclass(frozen=True, kw_only=True)
class PrincipalPlane(JsonRecord):
    """The principal plane of the model and the checkpoints.

    Attributes:
        places: Coordinates of the model and of each checkpoint, in units of weights.
        shares: Share of the variance along each axis.
    """

    places: tuple[tuple[float, ...], ...]
    shares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Geometry(JsonRecord):
    """Distances and angles that `geometry` measured.

    Attributes:
        model: Name of the model.
        dtype: The engine's dtype.
        norm: Norm of the model's weights.
        distances: Distances between all pairs, in units of weights. The model is the first row and column.
        cosines: Cosines of the angles between the displacements of the checkpoints from the model.
    """

    schema: str = "geometry/1"
    model: str
    dtype: str
    norm: float
    checkpoints: tuple[Checkpoint, ...]
    distances: tuple[tuple[float, ...], ...]
    cosines: tuple[tuple[float, ...], ...]
    principal: PrincipalPlane


@dataclass(frozen=True, kw_only=True)
class Finetuning(JsonRecord):
    """The report of `finetune`. The same values are in report.json of its folder.

    Attributes:
        recipe: The recipe, with the fields that the command line changed.
        train: Values that the training reported.
        measured: Rates of the trained model on each probe set of the recipe. Left out if nothing was evaluated.
    """

    OPTIONAL_KEYS: ClassVar[frozenset[str]] = frozenset({"measured"})

    schema: str = "finetuning/1"
    recipe: Mapping[str, Any]
    train: Mapping[str, Any]
    measured: Mapping[str, Any] | None = None
