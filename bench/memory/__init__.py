"""Predicts a training run's memory before it runs, and searches what fits.

Reading order: planner (the prediction), state_sizes (parameters, gradients, optimizer), without_numbers (adapters that
compute while they are built), activations, meta_device, reductions (buffers of sums), gathered (by FSDP2), phases
(load, score and save, too), inference (of a run that trains nothing), verdict (does it fit), fragmentation (is it
tight), search (what fits, and what makes it fit), largest (the largest model that fits), scoring (of a split, on the
host), limits (what is there), disk (what a run writes), needs (of a machine in all), timing (how long it takes), report
(tables for people), fitting (a recipe made to fit).

On what a plan does not rest is said by cautions: GPUs that share a model, and fp16.

Jobs of other programs: job (their settings), job_model, litgpt_model, job_shards (FSDP), replay (their steps, run
without numbers), allocator (what torch reserves for them), job_report.
"""
