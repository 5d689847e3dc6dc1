"""The stages, in order: prepare, plan, run, judge, reduce, report. Only this package knows the order."""
