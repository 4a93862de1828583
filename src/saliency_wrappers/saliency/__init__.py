"""Saliency methods: masks, scores, forward passes and the incremental engine. Imports agents; never Gymnasium, hooks or the store."""
