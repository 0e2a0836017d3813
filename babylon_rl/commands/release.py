"""`babylon deploy`, `promote`, `rollback`, `rollout` and `token`: who gets which model."""

from typing import TYPE_CHECKING, Annotated

import typer

from babylon_rl.commands.support import CommandError, databases, out, wait

if TYPE_CHECKING:
    from babylon_rl.deployment.deploy import Deployment
    from babylon_rl.deployment.rollout import RolloutStatus

Reason = Annotated[str, typer.Option(help="Kept in the history of deployments.")]


def deploy(
    version: Annotated[str, typer.Argument(help="Version such as v0.1.0; see `babylon models`.")],
    strategy: Annotated[
        str,
        typer.Option(
            help="immediate: everybody at once. gradual: a share of the agents, measured against the rest. "
            "test: the agents you name. (Old names: replace, blue-green, canary.)"
        ),
    ] = "immediate",
    percentage: Annotated[
        float | None,
        typer.Option(help="Share of a gradual rollout (default 10).", metavar="PERCENT"),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="Shares and hours of a gradual rollout; 100 promotes.", metavar="10:24,50:48,100"),
    ] = None,
    agents: Annotated[
        str | None, typer.Option(help="Agents of strategy test, comma-separated.", metavar="ID,ID")
    ] = None,
    sticky: Annotated[
        bool,
        typer.Option(
            "--sticky", help="Agents keep a version for good, and nothing is measured (no experiment)."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Although the gate has not promoted it.")] = False,
    reason: Reason = "by hand",
) -> None:
    """Release a model: to everybody, to a growing share of the agents, or to named ones.

    Again for the same version changes the share of its gradual rollout.
    """
    from babylon_rl.deployment.rollout import start_rollout
    from babylon_rl.deployment.strategies import parse_schedule
    from babylon_rl.settings import get_settings

    async def act() -> "RolloutStatus":
        settings = get_settings()
        async with databases() as db:
            return await start_rollout(
                db.rl,
                db.game if settings.project_to_game else None,
                version,
                strategy=strategy,
                percentage=percentage,
                schedule=None if schedule is None else parse_schedule(schedule),
                agents=[agent.strip() for agent in agents.split(",")] if agents else [],
                experiment=not sticky,
                block_windows=settings.rollout_block_windows,
                reason=reason,
                verdict_required=not force,
            )

    status = wait(act())
    if status.candidate is None:
        out.print(f"{status.active} serves {'now' if status.changed else 'already'}")
    else:
        _show(status)


def promote(reason: Reason = "promoted by hand") -> None:
    """Give the candidate of the running rollout to everybody."""
    from babylon_rl.deployment.rollout import promote as switch
    from babylon_rl.settings import get_settings

    async def act() -> "Deployment":
        async with databases() as db:
            return await switch(db.rl, db.game if get_settings().project_to_game else None, reason=reason)

    _report(wait(act()))


def rollback(
    to: Annotated[
        str | None, typer.Option(help="A version that served before. Default: the last one.")
    ] = None,
    reason: Reason = "rollback by hand",
) -> None:
    """Take the running rollout's candidate back; without one, the model before the active one serves again.

    Needs neither Dagster nor the gateway, which follows within seconds.
    """
    from babylon_rl.deployment.rollout import roll_back as switch
    from babylon_rl.settings import get_settings

    async def act() -> "Deployment":
        async with databases() as db:
            return await switch(db.rl, db.game if get_settings().project_to_game else None, to, reason=reason)

    _report(wait(act()))


def rollout() -> None:
    """Show who serves, the candidate's share, and what the experiment says so far."""
    from babylon_rl.deployment.rollout import rollout_status

    async def read() -> "RolloutStatus":
        async with databases() as db:
            return await rollout_status(db.rl)

    _show(wait(read()))


def token(
    agent: Annotated[str, typer.Argument(help="The agent that may use it.")],
    owner: Annotated[str | None, typer.Option(help="Whose agent it is; owners share a quota.")] = None,
    days: Annotated[
        float | None, typer.Option(help="Days until it ends. Default: when its secret does.")
    ] = None,
) -> None:
    """Make a token that lets one agent call the gateway (GATEWAY_TOKEN_SECRET signs it)."""
    import math
    import time

    from babylon_rl.deployment.strategies import check_agents
    from babylon_rl.serving.tokens import Claims, TokenSigner
    from babylon_rl.settings import get_settings

    secret = get_settings().gateway_token_secret
    signer = TokenSigner(None if secret is None else secret.get_secret_value())
    (agent,) = check_agents([agent])
    if owner is not None:
        (owner,) = check_agents([owner])
    if days is not None and not 0 < days < math.inf:  # in JSON, nan and inf would read as "never ends"
        raise CommandError(f"--days: {days:g}", "Give a number of days, such as 90.")
    print(signer.sign(Claims(agent, owner, None if days is None else time.time() + 86400 * days)))


def _show(status: "RolloutStatus") -> None:
    from babylon_rl.orchestration.rollout_view import rollout_table, sentence

    out.print(sentence(status))
    if status.check is not None and (table := rollout_table(status.check)) is not None:
        out.print(table)


def _report(deployment: "Deployment") -> None:
    if not deployment.changed:
        out.print(f"{deployment.version} is the active model already")
    else:
        replaced = f" instead of {deployment.replaced}" if deployment.replaced else ""
        out.print(f"{deployment.version} serves now{replaced}")
