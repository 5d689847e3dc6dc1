"""Verdicts become numbers: landscape, VISAGE, basin, intervals, comparison, gate."""
