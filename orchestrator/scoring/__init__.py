"""Judge stored responses and count the verdicts."""
