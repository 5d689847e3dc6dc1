"""Read back, with each tracker's own code, what a sweep has sent. Runs in the trackers' environment.

python -m tests.tools.read_trackers SWEEP_FOLDER TRACKER...     # prints JSON
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Values = dict[str, float]


def read_tensorboard(folder: Path) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tracking" / "tensorboard"), {"scalars": 0, "images": 0})
    events.Reload()
    steps: dict[int, Values] = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            steps.setdefault(event.step, {})[tag] = event.value
    images = [image.encoded_image_string for tag in events.Tags()["images"] for image in events.Images(tag)]
    files = ["landscape.png"] * (images[-1:] == [(folder / "figures" / "landscape.png").read_bytes()])
    return {"runs": 1, "steps": steps, "results": steps[max(steps)], "files": files}


def read_mlflow(folder: Path) -> dict[str, Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("safety-landscape")
    runs = client.search_runs([experiment.experiment_id])
    steps: dict[int, Values] = {}
    for name in runs[0].data.metrics:
        for metric in client.get_metric_history(runs[0].info.run_id, name):
            steps.setdefault(metric.step, {})[name] = metric.value
    files = [file.path for file in client.list_artifacts(runs[0].info.run_id)]
    return {"runs": len(runs), "steps": steps, "results": runs[0].data.metrics, "files": files}


def read_trackio(folder: Path) -> dict[str, Any]:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    runs = list(trackio.Api().runs("safety-landscape"))
    logs = SQLiteStorage.get_logs("safety-landscape", runs[0].name, run_id=runs[0].id)
    steps: dict[int, Values] = {}
    for log in logs:
        numbers = {key: value for key, value in log.items() if isinstance(value, int | float)}
        steps.setdefault(int(log["step"]), {}).update(numbers)
    files = [key for log in logs for key, value in log.items() if isinstance(value, dict)]
    return {"runs": len(runs), "steps": steps, "results": steps[max(steps)], "files": files}


def read_wandb(folder: Path) -> dict[str, Any]:
    steps: dict[int, Values] = {}
    results: Values = {}
    ids, files = set[str](), list[str]()
    for path in sorted(folder.glob("tracking/wandb/wandb/offline-run-*/*.wandb")):
        for record in _wandb_records(path.read_bytes()):
            match record.WhichOneof("record_type"):
                case "run":
                    ids.add(record.run.run_id)
                case "history":
                    values = {
                        "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                        for item in record.history.item
                    }
                    steps.setdefault(values["point"], {}).update(
                        {key: value for key, value in values.items() if isinstance(value, int | float)}
                    )
                case "summary":
                    results |= {item.key: json.loads(item.value_json) for item in record.summary.update if item.key}
                case "artifact":
                    files += [entry.path for entry in record.artifact.manifest.contents]
    return {"runs": len(ids), "steps": steps, "results": results, "files": files}


def _wandb_records(data: bytes) -> Iterator[Any]:
    """Yield the records of a run's file: wandb's own messages, in the blocks of LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    position, message = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        message += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(message)
            yield record
            message = b""


def main() -> None:
    folder = Path(sys.argv[1])
    read = {name: globals()[f"read_{name}"](folder) for name in sys.argv[2:]}
    json.dump(read, sys.stdout)


if __name__ == "__main__":
    main()
