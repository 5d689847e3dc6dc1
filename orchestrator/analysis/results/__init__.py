"""The results of a sweep as typed values: the contents of summary.json.

Percentages run from 0 to 100; distances are in units of alpha. None means undefined or unknown and is explained by a
`reason` beside it; nothing is ever NaN. Fields with a default were added later: a summary of an earlier version lacks
them. docs/formats.md describes the file and docs/statistics.md derives every number.
"""
