"""Database addresses: cleaned of what only Prisma understands, and described without their passwords."""

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from babylon_rl.database.errors import UnreachableDatabaseError

# https://www.prisma.io/docs/orm/overview/databases/postgresql#arguments; the server would refuse the names.
_PRISMA_ONLY = {
    "schema",
    "connection_limit",
    "pool_timeout",
    "connect_timeout",
    "socket_timeout",
    "pgbouncer",
    "statement_cache_size",
    "sslaccept",
    "sslidentity",
    "sslpassword",
}


@dataclass(frozen=True)
class Address:
    """Where a database is.

    Attributes:
        dsn: The address for a driver; it may hold a password, so it is not shown.
        schema: The schema of the game's tables where the address names one (`?schema=`).
        pooled: Whether a transaction-pooling bouncer is in between (`?pgbouncer=true`).
        description: Server, database and user, for people.
    """

    dsn: str = field(repr=False)
    schema: str | None
    pooled: bool
    description: str

    @classmethod
    def parse(cls, dsn: str) -> "Address":
        """Raises UnreachableDatabaseError for something that is no PostgreSQL address, without showing it."""
        try:
            parts = urlsplit(dsn)
            options = dict(parse_qsl(parts.query, keep_blank_values=True))
            host, port, user = parts.hostname, parts.port, unquote(parts.username or "")
        except ValueError:
            parts, options, host, port, user = None, {}, None, None, ""
        if parts is None or parts.scheme not in ("postgresql", "postgres"):
            raise UnreachableDatabaseError(
                "The database address is not of the form postgresql://user:password@host:port/database",
                "Check DATABASE_URL and RL_DATABASE_URL; special characters of a password are %-encoded.",
            )
        server = options.get("host") or f"{host or 'localhost'}:{options.get('port') or port or 5432}"
        name = unquote(parts.path.lstrip("/")) or options.get("dbname") or user
        kept = [(key, value) for key, value in options.items() if key not in _PRISMA_ONLY]
        return cls(
            dsn=urlunsplit(parts._replace(query=urlencode(kept, safe="/"))),
            schema=options.get("schema"),
            pooled=options.get("pgbouncer", "").lower() == "true",
            description=f"database {name!r} at {server} as {user or 'the current user'!r}",
        )
