"""The watch as the settings want it, the same for the gateway and for Dagster's sensor."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from babylon_rl.database.connection import MissingRoleError, open_databases
from babylon_rl.deployment.measuring import Value
from babylon_rl.deployment.watch import Pricing, WatchRules
from babylon_rl.outcomes.pricing import value_orders
from babylon_rl.records.reader import refresh_window_rows
from babylon_rl.settings import Settings

log = logging.getLogger(__name__)

PRICING_ROLE = "babylon_judge"


def rules(settings: Settings) -> WatchRules:
    """How the watch decides."""
    return WatchRules(
        alpha=settings.rollout_alpha,
        promote=settings.rollout_promote,
        trust_unverified=not settings.gateway_knows_agents,
    )


def pricing(settings: Settings) -> Pricing:
    """Values orders from the game's prices, or leaves it to the pipeline: the judge's role may be refused."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Value | None]:
        async with AsyncExitStack() as stack:
            try:
                databases = await stack.enter_async_context(open_databases(settings, role=PRICING_ROLE))
            except MissingRoleError as refused:
                log.info("orders are valued by the pipeline only: %s", refused)
                yield None
                return
            await refresh_window_rows(databases.game, databases.rl)

            async def value(window_id: str) -> None:
                await value_orders(databases.game, databases.rl, window_id)

            yield value

    return opened
