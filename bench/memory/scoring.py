"""Predicts the memory on the host that scoring a split takes: probabilities by label, and the metrics' intervals."""

from bench.analysis.stats.intervals import CHUNK_BYTES

# Of each example and label: a double where the answers are gathered, and one in the table that the metrics read.
BYTES_PER_PROBABILITY = 2 * 8
# 0 and 1 by label: lists of Python's own numbers (8 bytes a place) and tables of 8 bytes, predicted and reference.
BYTES_PER_FLAG = 2 * (8 + 8)
# F1 of each label in 2,000 draws of a bootstrap, in parts, together, and copied where percentiles are taken.
BYTES_PER_LABEL = 4 * 8 * 2000
# An example's id, predictions, references and entries of sparse statistics.
BYTES_PER_EXAMPLE = 1000


def scoring_bytes(examples: int, labels: int, *, multi_label: bool) -> int:
    """Return the predicted peak in bytes on the main process, in addition to the data and the model.

    Only what hangs on examples x labels grows with their product: probabilities, and sets of labels as flags. The
    metrics take memory in proportion to examples and labels.
    """
    of_each = BYTES_PER_PROBABILITY + (BYTES_PER_FLAG if multi_label else 0)
    return examples * (labels * of_each + BYTES_PER_EXAMPLE) + labels * BYTES_PER_LABEL + CHUNK_BYTES
