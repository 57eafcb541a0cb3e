"""Uploads to the Hugging Face Hub. Reading order: push (what is uploaded), cards (model and dataset cards), redact
(secrets and local paths).
"""
