"""Turns what `analysis` found into Markdown, HTML, figures and Hub cards. Loads no torch.

Reading order: markdown, cells and run_warnings (pieces), run_end (on the console) and run_page (one run), study_page
and study_sections (many runs), retention_table and calibration_table, comparison_page, short_table, html_page; figures/
and hub/.
"""
