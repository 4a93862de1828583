"""Running an agent on what masks change, and on nothing else."""
