"""Many runs: studies, jobs, scheduling, tuning, and the regression gate. Loads no torch.

Reading order: study (what is compared), parts (sizes and folds of the data), jobs (one run as a job), scheduler, search
(Optuna), tuning, try_study (a comparison from two names); gate/ for the regression gate.
"""
