"""A page that shows recorded episodes and answers questions about them. Imports store, saliency and video."""
