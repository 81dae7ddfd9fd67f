"""Says from the metrics of a codebook's use that it has collapsed. Imports nothing, as statuses show its sentences."""

from collections.abc import Mapping

BOOKS = ("semantic", "pixel")
# Healthy codebooks are used by a fifth and more, even those of flat drawings, where most codes say "background".
MIN_USED_SHARE = 0.02
MIN_PERPLEXITY = 2.0  # that of two codes of equal frequency
MIN_CODES_PER_ENTRY = 4.0  # of fewer counted codes, an unused entry says nothing


def collapse_warnings(metrics: Mapping[str, float]) -> list[str]:
    """A sentence for each codebook that has collapsed, from the metrics of `code_use`."""
    return [warning for book in BOOKS if (warning := _warning(book, metrics))]


def _warning(book: str, metrics: Mapping[str, float]) -> str:
    used, perplexity = metrics.get(f"{book}_codes_used", 1.0), metrics.get(f"{book}_perplexity", MIN_PERPLEXITY)
    counted = metrics.get(f"{book}_codes_per_entry", 0.0)
    if counted < MIN_CODES_PER_ENTRY or (used >= MIN_USED_SHARE and perplexity >= MIN_PERPLEXITY):
        return ""
    return (
        f"the {book} codebook has collapsed: {100 * used:.1f} % of its codes are in use (expected at least "
        f"{100 * MIN_USED_SHARE:.0f} %), with a perplexity of {perplexity:.1f} (at least {MIN_PERPLEXITY:.0f}); what "
        "is trained on these codes learns little of the images. Lower the tokenizer's learning rate or train it longer"
    )
