"""Helpers that know nothing of benchmarks.

Reading order: files (root, atomic writing, opening), shipped (recipes, configs and scripts of the package), arguments
(paths as options), signing (HMAC with this person's key), numbers (sizes for people), system (time, processor, memory,
locale), git (the checkout's commit), process (allocator settings), device_table (rates and memory of devices), hardware
(devices by name or size), cuda (questions to a device, by its index), loading_errors (one sentence for a failed
download or load), import_path (without the working folder), secret_formats (tokens and keys).
"""
