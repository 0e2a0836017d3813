from hypothesis import settings

# A busy machine is not a slow function.
settings.register_profile("untimed", deadline=None, derandomize=True)
settings.load_profile("untimed")
