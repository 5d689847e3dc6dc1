"""Read exported files by the libraries of the tools they are for: run as a script in an environment with them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def read_inspect(folder: Path) -> dict[str, Any]:
    """Return what Inspect reads of each log, by task."""
    from inspect_ai.log import list_eval_logs, read_eval_log

    read = {}
    for info in list_eval_logs(str(folder)):
        log = read_eval_log(info)
        assert log.results is not None and log.samples is not None
        read[log.eval.task] = {
            "status": log.status,
            "alpha": (log.eval.metadata or {})["alpha"],
            "attack_success_rate": log.results.scores[0].metrics["attack_success_rate"].value,
            "completions": [sample.output.completion for sample in log.samples],
            "classes": [(sample.scores or {})["keyword"].as_str() for sample in log.samples],
        }
    return read


def read_vtp(folder: Path) -> dict[str, Any]:
    """Return what VTK reads of each file, by name."""
    import vtk

    read = {}
    for path in sorted(folder.glob("*.vtp")):
        reader = vtk.vtkXMLPolyDataReader()
        reader.SetFileName(str(path))
        reader.Update()
        data = reader.GetOutput()
        asr = data.GetPointData().GetArray("asr")
        read[path.name] = {
            "cells": [data.GetNumberOfLines(), data.GetNumberOfPolys()],
            "asr": [[*data.GetPoint(i)[:2], asr.GetTuple1(i)] for i in range(data.GetNumberOfPoints())],
        }
    return read


if __name__ == "__main__":
    reader = {"inspect": read_inspect, "vtp": read_vtp}[sys.argv[1]]
    print(json.dumps(reader(Path(sys.argv[2]))))
