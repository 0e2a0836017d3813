"""The agents that were forgotten: known by the hash of their ids only, and left out wherever they turn up."""

import hashlib

import asyncpg

FORGOTTEN = "forgotten"
"""Why a row of such an agent is left out."""


class Forgotten:
    """A set of agents, asked by id."""

    def __init__(self, hashes: frozenset[str] = frozenset()) -> None:
        self._hashes = hashes

    def __contains__(self, agent_id: object) -> bool:
        return isinstance(agent_id, str) and bool(self._hashes) and agent_hash(agent_id) in self._hashes

    def __bool__(self) -> bool:
        return bool(self._hashes)


NOBODY = Forgotten()


def agent_hash(agent_id: str) -> str:
    """The SHA-256 of an agent's id, hexadecimal."""
    return hashlib.sha256(agent_id.encode()).hexdigest()


async def forgotten_agents(rl: asyncpg.Connection) -> Forgotten:
    """The agents that `babylon forget` has been asked to forget."""
    rows = await rl.fetch("SELECT agent_sha256 FROM rl.forgotten_agents")
    return Forgotten(frozenset(row["agent_sha256"] for row in rows)) if rows else NOBODY
