"""The assets, one module each; their graph is the pipeline."""
