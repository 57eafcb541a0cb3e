"""Reads records and predictions: verification, comparison, ranking, cost. Loads no torch.

Reading order: accessors (fields of a record), predictions (gather and check runs), verify (scores recomputed), compare
(paired tests), leaderboard (systems ranked), across (data sets), costs, spending (energy and money), train_log and
to_score (what a given score took), disagreements; stats/ holds every formula.
"""
