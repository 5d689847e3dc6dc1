"""Running a sweep: the Ray session, the dispatcher with its actors and queue, progress on the terminal, SLURM jobs."""
