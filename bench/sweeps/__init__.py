"""Many runs: studies, jobs, scheduling, tuning, and the regression gate. Loads no torch.

Reading order: study (what is compared), parts (sizes and folds of the data), jobs (one run as a job), labels, overview,
plan_file, resources (what a run takes, what a node has), scheduler, watch (what a sweep shows of itself, and to another
terminal), search (Optuna), tuning, try_study (a comparison from two names); gate/ for the regression gate.
"""
