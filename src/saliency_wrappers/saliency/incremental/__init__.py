"""The incremental engine: runs an agent on perturbed images and computes only what the masks change."""
