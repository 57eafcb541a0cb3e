"""Many runs: studies, jobs, scheduling, tuning, and the regression gate. Loads no torch.

Reading order: study (what is compared), jobs (one run as a job), labels, overview,
plan_file, scheduler, watch (what a sweep shows of itself, and to another terminal), tuning,
try_study (a comparison from two names); gate/ for the regression gate.
"""
