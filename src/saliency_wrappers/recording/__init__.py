"""The plain object behind every wrapper. Imports hooks, saliency and store; never Gymnasium."""
