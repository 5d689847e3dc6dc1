"""Report a sweep to experiment trackers while it runs and at its end: `track=[wandb,mlflow,trackio,tensorboard]`."""
