"""The rules that a decoded image is judged by."""

from data_pipelines.curation.config import CurationConfig
from data_pipelines.datasets.records import Reject
from data_pipelines.images.facts import ImageFacts


def judge_image(facts: ImageFacts, config: CurationConfig) -> Reject | None:
    """The first threshold that an image fails, None if it passes all."""
    if facts.opt_out and config.respect_opt_out:
        return Reject(reason="opted_out", detail=facts.opt_out)
    short, long = sorted((facts.width, facts.height))
    if long / short > config.max_aspect:
        return Reject(reason="extreme_aspect", detail=f"{facts.width} x {facts.height}, over {config.max_aspect:g} : 1")
    if short < config.min_side:
        return Reject(reason="too_small", detail=f"{facts.width} x {facts.height}, a side is under {config.min_side}")
    scores = facts.scores
    if scores["neighbour_correlation"] < config.min_neighbour_correlation:
        detail = f"neighbouring pixels correlate by {scores['neighbour_correlation']:g} only"
        return Reject(reason="noise_image", detail=detail)  # before contrast, as noise at a reduced size is blank
    if scores["contrast"] < config.min_contrast:
        return Reject(reason="blank_image", detail=f"contrast {scores['contrast']:g}, under {config.min_contrast:g}")
    if scores["sharpness"] < config.min_sharpness:
        detail = f"sharpness {scores['sharpness']:g}, under {config.min_sharpness:g}"
        return Reject(reason="low_quality", detail=detail)
    return None
