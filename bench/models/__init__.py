"""Builds, adapts, quantises and saves models; kernels/ compute the same with less.

build (card -> model), heads, checkpoint_head, span_head, choice_head, token_head, adapters (PEFT), peft_options,
adapter_names, adapter_readback, quantization, losses, autocast, batch_budget, positions, input_limits (tokens and
positions that a model has rows for), flops, product_types, saving, Reading order: card_from_config (a name -> card),
hub_models, location.
"""
