"""Uses of libraries beyond their public interfaces: one module for each library, and no other place.

Reading order: torch_internals, transformers_internals, accelerate_internals, deepspeed_internals,
bitsandbytes_internals, evaluate_internals.
A test holds the list of them, with what each is needed for.
"""
