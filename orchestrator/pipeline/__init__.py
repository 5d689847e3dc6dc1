"""The stages of a sweep, in order: prepare, plan, run, judge, reduce, report. Only this package defines the order."""
