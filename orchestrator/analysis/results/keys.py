"""The keys of results: the prompts and the judge that a result is about."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.scoring.counts import Combination
from orchestrator.utils.records import JsonRecord


@dataclass(frozen=True, kw_only=True)
class PromptsKey(JsonRecord):
    """The prompts that a result is about."""

    probe_set: str
    group: str
    system_prompt: str

    @property
    def prompts_key(self) -> PromptsKey:
        """The fields of this key, without those of a subclass."""
        return PromptsKey(probe_set=self.probe_set, group=self.group, system_prompt=self.system_prompt)


@dataclass(frozen=True, kw_only=True)
class ResultKey(PromptsKey):
    """The prompts and the judge that a result is about."""

    judge: str

    @property
    def key(self) -> ResultKey:
        """The fields of this key, without those of a subclass."""
        return ResultKey(**dict(zip(RESULT_KEY, self.combination, strict=True)))

    @property
    def combination(self) -> Combination:
        """(probe_set, group, system_prompt, judge): the key of a result in `scoring.counts`."""
        return self.probe_set, self.group, self.system_prompt, self.judge


RESULT_KEY = ("probe_set", "group", "system_prompt", "judge")
"""The fields of a `ResultKey`, which are columns of a landscape too."""
