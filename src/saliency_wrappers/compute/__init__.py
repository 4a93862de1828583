"""`compute_saliency` over a store, on any backend. Imports saliency, store and hooks."""
