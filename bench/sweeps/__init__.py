"""Many runs: studies, jobs, scheduling, tuning, and the regression gate. Loads no torch.

Onto which nodes runs go is planned by placement, from resources.

Reading order: study (what is compared), parts (sizes and folds of the data), jobs (one run as a job), labels, overview,
plan_file, processes, executors (where runs are executed), scheduler, watch (what a sweep shows of itself, and to
another terminal), search (Optuna), tuning, try_study (a comparison from two names). On a cluster: resources (what a run
takes, what a node has), forecasts, node_check, supervisor, gathering, node_agent (a run on its node), slurm_executor,
ray_cluster, ray_executor. gate/ for the regression gate.
"""
