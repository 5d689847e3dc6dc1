"""Compare stored sweeps: differences of VISAGE, mean margin and ASR at each point, with intervals and p-values.

Each sweep is compared with the first, by its primary result. Points pair if they are the same point on the same line
(same seeds), probes if they are the same question. Differences are then taken probe by probe, so that effects that both
sweeps share (hard probes, hard directions) cancel out. If probes do not pair, the errors of the two sweeps add up.
"""
