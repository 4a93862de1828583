"""The command line. Imports everything."""

from saliency_wrappers.cli.record import main

__all__ = ["main"]
