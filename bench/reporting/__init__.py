"""Turns what `analysis` found into Markdown, HTML, figures and Hub cards. Loads no torch.

Reading order: markdown, cells and run_warnings (pieces), energy_and_money, run_end (on the console) and run_page (one
run), study_page and study_sections (many runs), comparison_page, short_table, html_page; figures/ and hub/.
"""
