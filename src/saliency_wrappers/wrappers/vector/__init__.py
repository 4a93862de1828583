"""Gymnasium wrappers for vector environments, as in `gymnasium.wrappers.vector`."""
