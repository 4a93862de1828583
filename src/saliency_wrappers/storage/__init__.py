"""How recorded episodes lie in a store: Zarr v3 groups and chunks, written in the background, read within bounds, never executed."""
