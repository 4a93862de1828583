"""Faithfulness of maps: insertion and deletion curves, controls, intervals. Imports saliency; never Gymnasium, hooks or the store."""

from saliency_wrappers.faithfulness.bootstrap import Interval
from saliency_wrappers.faithfulness.confidence import Confidence, map_confidence
from saliency_wrappers.faithfulness.controls import CentrePrior, ChangeFromFill, OtherDecision, RandomPixels
from saliency_wrappers.faithfulness.curves import FRACTIONS, CurveMaker, area, pixel_order
from saliency_wrappers.faithfulness.detailed import DetailedSaliency, with_details
from saliency_wrappers.faithfulness.evaluation import control_methods, evaluate, spaced
from saliency_wrappers.faithfulness.plots import plot_curves, plot_memory
from saliency_wrappers.faithfulness.sanity import SanityCheck, sanity_check
from saliency_wrappers.faithfulness.scorecard import Scorecard

__all__ = [
    "FRACTIONS",
    "CentrePrior",
    "ChangeFromFill",
    "Confidence",
    "CurveMaker",
    "DetailedSaliency",
    "Interval",
    "OtherDecision",
    "RandomPixels",
    "SanityCheck",
    "Scorecard",
    "area",
    "control_methods",
    "evaluate",
    "map_confidence",
    "pixel_order",
    "plot_curves",
    "plot_memory",
    "sanity_check",
    "spaced",
    "with_details",
]
