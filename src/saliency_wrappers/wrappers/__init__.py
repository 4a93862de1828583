"""Gymnasium wrappers. Imports recording and video."""
