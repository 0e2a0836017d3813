"""The spellings of one company: organization id, engine ticker, name, with or without `$`, in any case.

The engine writes a ticker, agents' trades carry the company's name, NPC rows the organization id; all three
mean the same asset.
"""

import re
from collections.abc import Sequence

TICKER_LENGTH = 12
"""The engine cuts tickers here, so two long ids can collide."""


def engine_ticker(organization_id: str) -> str:
    """Returns the engine's ticker: the id in upper case without dashes, cut to 12 letters."""
    return organization_id.upper().replace("-", "")[:TICKER_LENGTH]


class TickerAliases:
    """Finds the organization that a text means. A spelling shared by two organizations means neither.

    Args:
        companies: Pairs of organization id and name.
    """

    def __init__(self, companies: Sequence[tuple[str, str]]) -> None:
        meanings: dict[str, set[str]] = {}
        for organization_id, name in companies:
            uncut = organization_id.replace("-", "")
            for alias in (organization_id, engine_ticker(organization_id), uncut, name):
                if key := _key(alias):
                    meanings.setdefault(key, set()).add(organization_id)
        # An exact id is never ambiguous, whatever else is called the same.
        ids = {_key(organization_id): organization_id for organization_id, _ in companies}
        self._meaning = {key: next(iter(found)) for key, found in meanings.items() if len(found) == 1} | ids
        self.ambiguous = sorted(key for key, found in meanings.items() if len(found) > 1 and key not in ids)
        """Spellings that could mean more than one organization."""
        longest_first = sorted(self._meaning, key=lambda key: (-len(key), key))
        alternatives = "|".join(map(re.escape, longest_first)) or "(?!)"
        self._mention = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)", re.IGNORECASE)

    def resolve(self, text: str | None) -> str | None:
        """Returns the organization id that `text` as a whole is a spelling of, or None."""
        return self._meaning.get(_key(text or ""))

    def mentioned(self, text: str) -> list[str]:
        """Returns the ids of the organizations that a text names, sorted."""
        found = {self._meaning.get(_key(match)) for match in self._mention.findall(text)}
        return sorted(organization_id for organization_id in found if organization_id is not None)


def _key(spelling: str) -> str:
    return spelling.strip().removeprefix("$").lower()
