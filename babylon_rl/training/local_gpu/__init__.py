"""ART's LocalBackend on a GPU of this machine, in a process and an environment of its own."""
