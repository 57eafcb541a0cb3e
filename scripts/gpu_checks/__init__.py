"""The parts of scripts/gpu_check, in reading order.

cases (what is run, in which order, for how long), running (each in a process of its own, its record kept), correctness,
memory and peers (what those processes do), stub (a device that computes nothing), report (Markdown of the records),
wheels (what a plain CUDA image lacks).
"""
