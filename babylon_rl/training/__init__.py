"""Groups become ART trajectories, and trajectories become checkpoints."""
