"""Drop-in metrics: one self-contained `evaluate.Metric` in each file."""
