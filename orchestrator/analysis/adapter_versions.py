"""Sweeps toward LoRA adapters that were measured under an earlier adapter version. They are read but never extended.

The version is `ADAPTER_VERSION`. It is part of an adapter's fingerprint, and so of the ids of its direction and points.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from orchestrator.store.files import DamagedFileError
from orchestrator.store.records import SweepRecord
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.sweep.target_geometry import ADAPTER_VERSION


def older_version_note(record: SweepRecord) -> str | None:
    """Return a sentence on what a sweep of an earlier adapter version measured; None for any other sweep.

    A sweep of version 1 does not say which of its targets are adapters, so neither can the sentence.
    """
    geometry = record.target_geometry
    if geometry is None or geometry.adapter_version >= ADAPTER_VERSION:
        return None
    names = ", ".join(record.labels.get(name, name) for name in geometry.lengths)
    return (
        f"Adapter version {geometry.adapter_version} measured this sweep: where its targets ({names}) are LoRA "
        "adapters, their weights were first rounded to the dtype of the stored model, and distances and responses are "
        "those of the rounded weights; full checkpoints are not affected."
    )


def older_sweeps(study: Study, former: Collection[str]) -> list[str]:
    """Return the folder names of the sweeps toward adapters that have these fingerprints under adapter version 1."""
    names = []
    for folder in SweepFolder.all_of(study):
        with contextlib.suppress(DamagedFileError):
            geometry = folder.read_record().target_geometry
            if geometry is not None and not set(former).isdisjoint(geometry.lengths):
                names.append(folder.path.name)
    return sorted(names)
