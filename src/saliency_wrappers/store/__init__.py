"""Recorded episodes on disk, in Zarr v3: data, never code. Imports decisions, states and preprocessing; never agents or saliency."""
