"""Admin API and the training dashboard: what operators see and start, at the seeds' paths."""
