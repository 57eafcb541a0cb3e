"""Fits a model: schedule, engines, checkpoints, selection.

Reading order: fit (entry), engines/loop (the training step in plain sight), schedule, state, log, selection,
checkpointing, checkpoint_files, memory_saving, answer_only, autocast, probe.
"""
