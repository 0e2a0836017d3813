"""`babylon serve`, `babylon admin` and `babylon dev`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from babylon_rl.commands.support import databases, out, wait

if TYPE_CHECKING:
    from babylon_rl.orchestration.dev import Service


def serve(
    host: Annotated[str, typer.Option(help="Address; beyond this machine it needs GATEWAY_API_KEYS.")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0 takes a free one. Default: PORT.")
    ] = None,
) -> None:
    """Run the OpenAI-compatible gateway: chat completions from the deployed model, until Ctrl-C."""
    from babylon_rl.rl_model_config import log_rl_configuration
    from babylon_rl.serving import gateway
    from babylon_rl.settings import get_settings

    log_rl_configuration(get_settings())
    gateway.serve(get_settings(), host=host, port=port)


def admin(
    host: Annotated[str, typer.Option(help="Address to listen on; a proxy should add TLS beyond it.")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0 takes a free one. Default: ADMIN_PORT.")
    ] = None,
) -> None:
    """Run the admin API and the training dashboard, until Ctrl-C; both want ADMIN_TOKEN."""
    from babylon_rl.api import server
    from babylon_rl.settings import get_settings

    server.serve(get_settings(), host=host, port=port)


def dev(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Dagster UI.")] = 3000,
) -> None:
    """Run Dagster's UI and daemon, the gateway and the dashboard together until Ctrl-C."""
    from babylon_rl.orchestration.dev import development_services, require_free_ports, run_together
    from babylon_rl.settings import get_settings

    settings = get_settings()
    services = development_services(settings, port)
    require_free_ports(services)
    with out.status("base model (built on first use)"):
        wait(_prepare_base())
    run_together(settings, services, lambda: _announce(services))
    out.print("stopped")


async def _prepare_base() -> None:
    """Something has to answer before the first model is deployed: the base of the backend that will train."""
    from babylon_rl.deployment.candidates import ensure_base
    from babylon_rl.deployment.registry import list_models
    from babylon_rl.settings import get_settings
    from babylon_rl.training.backends import choose_backend
    from babylon_rl.training.errors import BackendNotAvailableError
    from babylon_rl.training.tiny_base import BASE_MODEL_NAME

    settings = get_settings()
    async with databases() as db:
        base = next((model.base_model for model in await list_models(db.rl) if model.is_base), None)
        if base is not None and {base, settings.base_model_for("embedded")} != {BASE_MODEL_NAME}:
            return  # it stays what it was registered as
        try:
            backend = choose_backend(settings).name if base is None else "embedded"
        except BackendNotAvailableError:  # nothing trains here; the gateway still has something to serve
            backend = "embedded"
        await ensure_base(db.rl, settings, backend=backend)


def _announce(services: "Sequence[Service]") -> None:
    for service in services:
        out.print(f"{service.name}: {service.url}{service.note}")
    out.print("Ctrl-C stops everything; the database keeps running (`babylon db stop`)")
