"""Kernels that compute the same with less.

Reading order: patch (replace a forward, test it on a few tokens), padding_free, padding_probe (shows that it gives the
same), fused (which of torch's kernels takes what), packed_attention, attention, shared_prefix (a common prefix once),
answer_only_loss (logits for answer tokens only), compiled_blocks (by torch.compile).
"""
