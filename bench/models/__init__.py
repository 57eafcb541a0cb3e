"""Builds, adapts, quantises and saves models; kernels/ compute the same with less.

Reading order: location (where a model's files are), hub_models and card_from_config (a name -> card), build (card ->
model), heads, initial_values, checkpoint_head, own_heads (where transformers has none), attention_bias, choice_head,
text_part (of checkpoints with vision or audio), own_writers (of such without a language model by itself), adapters
(PEFT), peft_options, adapter_names, adapter_readback, quantization, shards (each process holds its own), whole_on_disk,
losses, autocast, batch_budget, positions, input_limits (tokens and positions that a model has rows for), flops,
product_types, tfidf (no language model), saving.
"""
