"""`python -m saliency_wrappers.cli`: the same as `saliency-wrappers`."""

from saliency_wrappers.cli.record import main

main()
