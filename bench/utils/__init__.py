"""Helpers that know nothing of benchmarks.

Reading order: files (root, atomic writing), numbers (sizes for people), process (allocator settings), hardware (device
table), loading_errors (one sentence for a failed download or load).
"""
