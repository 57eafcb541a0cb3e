"""Turns what `analysis` found into Markdown, HTML, figures and Hub cards. Loads no torch.

Reading order: markdown, cells, local_paths, run_warnings, energy_and_money, retention_table and calibration_table
(pieces), run_end (on the console), run_summary, run_examples and run_page (one run), study_page, study_sections and
study_settings (many runs), data_parts with label_curve_page, folds_page and tuning_page (of studies), how_made,
findings and comparison_page, short_table, printed_table, html_page; figures/ and hub/.
"""
