"""Fits a model: schedule, engines, checkpoints, selection.

Reading order: fit (entry), engines/loop (the training step in plain sight), state, session, policy, loss, class_loss
(weights, focal), self_check (fast paths against the plain one), compiling, schedule, loss_scale (of fp16), log,
selection, in_force, checkpointing, checkpoint_files, checkpoint_shards, optimizer_registry, memory_saving, autocast,
probe.
"""
