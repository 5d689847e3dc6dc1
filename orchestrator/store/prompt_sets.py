"""Prompt sets, stored once and named by content."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from orchestrator.store.files import (
    DamagedFileError,
    MissingFileError,
    publish_table,
    read_meta,
    read_table,
    translate_read_errors,
)
from orchestrator.store.schemas import PROMPTS
from orchestrator.store.study_folder import StudyFolder
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling


class PromptSets:
    """The prompt sets stored in a study."""

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder

    def write(self, prompts: PromptSet) -> None:
        """Store a prompt set unless it is stored already. A stored one of an earlier version is left as it is."""
        path = self._path(prompts.id)
        try:
            self.read(prompts.id)
            return
        except MissingFileError:
            pass
        except DamagedFileError as error:
            self._folder.reject(path, error)
        columns = {
            "prompt_id": [p.id for p in prompts.prompts],
            "group": [prompts.group] * len(prompts.prompts),
            "category": [p.category for p in prompts.prompts],
            "pair_id": [p.pair_id for p in prompts.prompts],
            "text": [p.text for p in prompts.prompts],
            "rendered": list(prompts.rendered),
            "target": [p.target for p in prompts.prompts],
            "choices": [list(p.choices) for p in prompts.prompts],
            "system_prompt": [prompts.system_prompt] * len(prompts.prompts),
            "token_ids": [list(ids) for ids in prompts.token_ids],
        }
        meta = {
            "schema": "prompts/1",
            "prompt_set_id": prompts.id,
            "group": prompts.group,
            "sampling": prompts.sampling.to_json(),
            "probe_set": prompts.probe_set,
            "system_prompt": prompts.system_prompt,
            "origin": prompts.origin,
            "template": prompts.template,
        }
        publish_table(self._folder.out, path, pa.table(columns, schema=PROMPTS), meta)

    def read(self, prompt_set_id: str) -> PromptSet:
        """Return a stored prompt set. Raises DamagedFileError if its content does not hash to its id."""
        path = self._path(prompt_set_id)
        meta = read_meta(path)
        rows = read_table(path, PROMPTS, meta=meta).to_pylist()
        with translate_read_errors(path):
            prompts = PromptSet(
                group=meta["group"],
                prompts=tuple(
                    Prompt(r["text"], r["group"], r["category"], r["pair_id"], r["target"], tuple(r["choices"]))
                    for r in rows
                ),
                rendered=tuple(r["rendered"] for r in rows),
                token_ids=tuple(tuple(r["token_ids"]) for r in rows),
                sampling=Sampling.from_json(meta["sampling"]),
                probe_set=meta["probe_set"],
                system_prompt=meta["system_prompt"],
                origin=meta.get("origin", ""),
                template=meta.get("template", ""),
            )
        if prompts.id != prompt_set_id:
            raise DamagedFileError(f"{path}: holds another prompt set")
        return prompts

    def _path(self, prompt_set_id: str) -> Path:
        return self._folder.path("prompts", f"{prompt_set_id}.parquet")
