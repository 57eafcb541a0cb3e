"""Builds, adapts, quantises and saves models; kernels/ compute the same with less.

Reading order: build (card -> model), heads, span_head, adapters (PEFT), quantization, losses, autocast, batch_budget,
flops, product_types, saving.
"""
