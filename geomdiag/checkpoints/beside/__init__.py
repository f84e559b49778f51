"""What lies beside checkpoints: settings, curves, splits, the logs of trackers."""
