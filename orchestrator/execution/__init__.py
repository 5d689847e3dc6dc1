"""Ray: cluster, dispatcher, actors, progress, SLURM."""
