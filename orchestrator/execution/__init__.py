"""Execution of a sweep: Ray session, dispatcher with its actors and queue, progress on the terminal, SLURM jobs."""
