"""Read and write the folder of a study. Only this package touches stored files."""
