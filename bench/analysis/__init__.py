"""Reads records and predictions: verification, comparison, ranking, cost. Loads no torch.

Reading order: accessors (fields of a record), predictions (gather and check runs), verify (scores recomputed), compare
(paired tests), leaderboard (systems ranked), across (data sets), label_curves (training examples), folds
(cross-validation), costs, disagreements; stats/ holds every formula.
"""
