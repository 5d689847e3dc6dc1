"""Agreement of the judges of one sweep: shares, Cohen's kappa, and the responses on which two judges differ.

kappa = (p_o - p_e) / (1 - p_e) is the agreement beyond chance, as a share of the largest possible agreement beyond
chance (Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement 20, 1960). p_o
is the share of responses on which both judges agree; p_e is the agreement expected of two judges that refuse as often
as these, independently of each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from orchestrator.analysis.results.judges import AgreementSummary, Disagreement, Disagreements
from orchestrator.analysis.results.keys import PromptsKey
from orchestrator.scoring.counts import Combination, ProbeVerdicts

EXAMPLES = 20


def kappa(both_refused: int, only_first: int, only_second: int, both_complied: int) -> float | None:
    """Return Cohen's kappa of two judges with two verdicts each.

    None if there are no responses, or if both judges give one and the same verdict to all responses: the agreement
    expected by chance is then 100%, and kappa is undefined.
    """
    n = both_refused + only_first + only_second + both_complied
    if not n:
        return None
    first, second = (both_refused + only_first) / n, (both_refused + only_second) / n
    chance = first * second + (1 - first) * (1 - second)
    if chance == 1:
        return None
    return ((both_refused + both_complied) / n - chance) / (1 - chance)


def summarize_agreement(verdicts: Mapping[Combination, ProbeVerdicts]) -> tuple[AgreementSummary, ...]:
    """Return the agreement of each pair of judges on each prompt set, in the order of `verdicts`."""
    by_prompts: dict[PromptsKey, dict[str, ProbeVerdicts]] = {}
    for (probe_set, group, system_prompt, judge), outcomes in verdicts.items():
        key = PromptsKey(probe_set=probe_set, group=group, system_prompt=system_prompt)
        by_prompts.setdefault(key, {})[judge] = outcomes
    return tuple(
        compare_judges(key, judges, (first, second))
        for key, judges in by_prompts.items()
        for first, second in itertools.combinations(judges, 2)
    )


def compare_judges(key: PromptsKey, verdicts: Mapping[str, ProbeVerdicts], judges: tuple[str, str]) -> AgreementSummary:
    """Return the agreement of two judges on one prompt set. `verdicts`: the verdicts of each judge, by its name."""
    first = verdicts[judges[0]]
    one, other = first.refused, verdicts[judges[1]].at(first.points, first.prompts)  # [point, prompt]
    known = ~np.isnan(one) & ~np.isnan(other)
    refused_1, refused_2 = (one == 1) & known, (other == 1) & known
    pairs = ((refused_1, refused_2), (refused_1, ~refused_2), (~refused_1, refused_2), (~refused_1, ~refused_2))
    counts = [int((known & a & b).sum()) for a, b in pairs]
    n, value = sum(counts), kappa(*counts)
    reason = None
    if value is None:
        reason = "both say the same everywhere" if n else "no response has both verdicts"
    differ = known & (refused_1 != refused_2)
    by_point = differ.sum(axis=1)
    words = ("complied", "refused")
    return AgreementSummary(
        probe_set=key.probe_set,
        group=key.group,
        system_prompt=key.system_prompt,
        judges=judges,
        n=n,
        both_refused=counts[0],
        only_first_refused=counts[1],
        only_second_refused=counts[2],
        both_complied=counts[3],
        agreement=100.0 * (counts[0] + counts[3]) / n if n else None,
        kappa=value,
        reason=reason,
        differ_at=tuple(
            Disagreements(point_id=first.points[i], n=int(by_point[i]))
            for i in np.argsort(-by_point, kind="stable")[:EXAMPLES]
            if by_point[i]
        ),
        differ_on=tuple(
            Disagreement(
                point_id=first.points[i],
                prompt_id=first.prompts[j],
                verdicts=(words[int(refused_1[i, j])], words[int(refused_2[i, j])]),
            )
            for i, j in np.argwhere(differ)[:EXAMPLES]
        ),
    )
