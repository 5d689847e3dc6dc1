"""Responses become verdicts, verdicts become counts."""
