"""Predicts a training run's memory before it runs, and searches what fits.

Reading order: planner (the prediction), state_sizes (parameters, gradients, optimizer), activations, meta_device,
phases (load, score and save, too), search (what fits), largest (the largest model that fits), scoring (of a split, on
the host), limits (what is there), report (tables for people), fitting (a recipe made to fit).
"""
