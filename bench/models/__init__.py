"""Builds, adapts, quantises and saves models; kernels/ compute the same with less.

Reading order: build (card -> model), heads, span_head, adapters (PEFT), quantization, losses, autocast, batch_budget,
positions, input_limits (tokens and positions that a model has rows for), flops, saving.
"""
