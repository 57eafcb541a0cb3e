"""Reads records and predictions: verification, comparison, ranking, cost. Loads no torch.

Reading order: accessors (fields of a record), predictions (gather and check runs), verify (scores recomputed), compare
(paired tests), leaderboard (systems ranked), text_baseline, retention (before and after a training), verify_beside
(these recomputed), across (data
sets), label_curves (training examples), folds (cross-validation), costs, spending (energy and money), train_log and
to_score (what a given score took), disagreements, sample (examples of one run); stats/ holds every formula.
"""
