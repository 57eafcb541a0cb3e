"""Kernels that compute the same with less. Reading order: padding_free (no pads), packed_attention, attention,
shared_prefix (a common prefix once), answer_only_loss (logits for answer tokens only).
"""
