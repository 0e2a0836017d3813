"""Commands of `babylon` by topic; `cli.py` mounts them. Rooms are imported inside the commands."""
