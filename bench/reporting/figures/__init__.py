"""Figures; the same input gives the same bytes. Reading order: style, run (one run), study (many runs), sections (which
figures a study's page gets).
"""
