"""Reads records and predictions: verification, comparison, ranking, cost. Loads no torch.

Reading order: accessors (fields of a record), predictions (gather and check runs), verify (scores recomputed), compare
(paired tests), leaderboard (systems ranked), text_baseline, retention (before and after a training), across (data
sets), costs, disagreements; stats/ holds every formula.
"""
