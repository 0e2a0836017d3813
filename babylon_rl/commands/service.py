"""`babylon service …`: the installation as services that start with the machine."""

from pathlib import Path
from typing import Annotated

import typer

from babylon_rl.commands.support import out

app = typer.Typer(no_args_is_help=True, help="Dagster, gateway and admin API as services of this machine.")


@app.command()
def install(
    system: Annotated[
        bool, typer.Option("--system/--user", help="Units of the machine (root), or of this user.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Folder of the units. Default: where systemd looks.")
    ] = None,
    environment_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the settings and secrets. Default: beside the units' own configuration."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the units, write nothing.")] = False,
) -> None:
    """Write the systemd units of code server, webserver, daemon, gateway and admin API; safe to repeat.

    They hold no secret: those belong into the environment file, which is made with mode 600 if it is missing.
    """
    from babylon_rl.orchestration import services
    from babylon_rl.settings import get_settings

    settings = get_settings()
    default = Path("/etc/babylon") if system else Path.home() / ".config" / "babylon"
    environment = environment_file or default / "environment"
    units = services.units(settings, system=system, environment_file=environment)
    place = folder or services.unit_folder(system=system)
    if dry_run:
        for unit in units:
            typer.echo(f"# {place / unit.name}\n{unit.text}")
        return
    for written in services.install(place, units, environment):
        out.print(f"{written.state:<9} {written.path}", soft_wrap=True)
    systemctl = "systemctl" if system else "systemctl --user"
    out.print(f"Put your settings into {environment}, then:", soft_wrap=True)
    out.print(f"  {systemctl} daemon-reload && {systemctl} enable --now {services.TARGET}", soft_wrap=True)
    if not system:
        out.print("  loginctl enable-linger    # else they end when you log out", soft_wrap=True)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="code, webserver, daemon, gateway or admin.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the service's own.")] = None,
    code_host: Annotated[str, typer.Option(help="Where the code server is.")] = "127.0.0.1",
    code_port: Annotated[int, typer.Option(min=1, max=65535, help="Its port.")] = 4000,
) -> None:
    """Become one of the services; systemd, compose or another supervisor starts this."""
    from babylon_rl.orchestration import services
    from babylon_rl.settings import get_settings

    services.become(name, get_settings(), host=host, port=port, code_host=code_host, code_port=code_port)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="code, webserver, daemon, gateway or admin.")],
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the service's own.")] = None,
) -> None:
    """Ask a service of this machine whether it is well; the exit status says it too."""
    from babylon_rl.orchestration import service_health
    from babylon_rl.settings import get_settings

    out.print(service_health.check(name, get_settings(), port=port), soft_wrap=True)
