"""Sends a run to experiment trackers: recipe, losses, validation and final scores, for every method and engine.

Reading order: tracker (the contract, and what is sent), fan_out (several at once, of which none may end a run), and one
file for each service: tensorboard_, wandb_, mlflow_, trackio_.
"""
