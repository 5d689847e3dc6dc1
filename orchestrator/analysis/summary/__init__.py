"""Compute the numbers of summary.json from a landscape: its scores, basin and checkpoints, each with its interval.

Pure functions. Percentages run from 0 to 100 and distances are in units of alpha. An undefined number is None, with a
reason, and never NaN. docs/statistics.md says what each interval covers and derives every formula.
"""
