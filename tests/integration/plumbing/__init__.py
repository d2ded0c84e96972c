"""A database with the plumbing and nothing else."""
