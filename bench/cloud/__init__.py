"""Files for one run on rented machines: Kubernetes manifests and a SkyPilot task, with resources from the forecast.

Reading order: names (that Kubernetes accepts), devices (GPUs as the platforms name them), carried (a recipe of one's
own, its cards and data), job (what is asked for), manifests (for Kubernetes), sky_task (for SkyPilot), folder (writes
them).
"""
