"""The OpenAI-compatible gateway that agents ask."""
