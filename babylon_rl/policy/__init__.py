"""Whatever answers chat messages: checkpoints on disk, the embedded engine, remote OpenAI-style servers."""
