"""Files that are whole or not there: checkpoints, logs, locks."""
