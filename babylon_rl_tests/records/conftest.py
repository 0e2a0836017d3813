from hypothesis import settings

from babylon_rl_tests.shared_database import dsn, file_dsn

__all__ = ["dsn", "file_dsn"]

# A busy machine is not a slow function.
settings.register_profile("untimed", deadline=None, derandomize=True)
settings.load_profile("untimed")
