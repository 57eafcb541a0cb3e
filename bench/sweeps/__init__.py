"""Many runs: studies, jobs, scheduling, tuning, and the regression gate. Loads no torch.

Reading order: study (what is compared), jobs (one run as a job), scheduler, tuning,
try_study (a comparison from two names); gate/ for the regression gate.
"""
