"""What every run has, of whatever kind: folder, checkpoints, loggers, trainer, start and end."""
