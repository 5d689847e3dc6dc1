"""Compute results from verdicts: landscape, VISAGE, basin, intervals, comparison, gate."""
