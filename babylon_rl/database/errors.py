"""What can go wrong between us and PostgreSQL, each with its remedy."""

import asyncpg

from babylon_rl.errors import BabylonError


class DatabaseError(BabylonError):
    """Base of the errors of this room."""


class EmbeddedServerError(DatabaseError):
    """The embedded server cannot be made, started, reached or stopped."""


class SocketPathTooLongError(EmbeddedServerError):
    """The operating system cannot bind a unix socket at the wanted path."""


class UnreachableDatabaseError(DatabaseError):
    """No usable connection could be made to a database."""


class LostDatabaseError(DatabaseError):
    """A database went away in the middle of the work."""


class MissingRoleError(DatabaseError):
    """A database role that the pipeline runs under does not exist or may not be taken."""


class MissingMigrationError(DatabaseError):
    """The database lacks migrations of this version of the code."""


class ChangedMigrationError(DatabaseError):
    """A migration file differs from what was applied under its name."""


class MigrationError(DatabaseError):
    """A migration cannot be applied; nothing of the attempt was kept."""


class MissingGameTablesError(DatabaseError):
    """Tables or columns of the game that the pipeline reads are not there."""


# asyncpg wraps what an encoder raises into a DataError, except for its own InternalClientError.
class NaiveTimestampError(DatabaseError, asyncpg.InternalClientError):
    """A datetime without a time zone was given for a timestamp; guessing a zone would move rows."""
