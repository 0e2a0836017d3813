"""DAGSTER_HOME and the Dagster instance in it.

Dagster reads `dagster.yaml` only from DAGSTER_HOME. The file belongs to the repository, the home to
`$BABYLON_HOME/dagster`: the file is linked there, so that an edit counts at once and the repository stays
clean.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from babylon_rl.errors import BabylonError
from babylon_rl.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]

# Set before anything can import ART: it asks the network for prices, reads ./.env and starts weave otherwise.
LIBRARY_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "PYTHON_DOTENV_DISABLED": "1",
    "WANDB_DISABLE_WEAVE": "true",
    "DAGSTER_DISABLE_TELEMETRY": "yes",
    # Materializations of a range run are stored together instead of one commit each.
    "DAGSTER_EVENT_BATCH_SIZE": "100",
}

STATEMENT_TIMEOUT_MS = 300_000
RECORDED_ROWS = dg.AssetKey("recorded_rows")


class DagsterHomeError(BabylonError):
    """DAGSTER_HOME cannot be prepared."""


def workspace_file() -> Path:
    """Returns the repository's `workspace.yaml`.

    Raises:
        DagsterHomeError: The package was installed without its repository.
    """
    return _repository_file("workspace.yaml")


def dagster_environment(settings: Settings) -> dict[str, str]:
    """Returns the variables that every Dagster process of ours needs; starts the embedded server if used."""
    from babylon_rl.database.connection import dagster_dsn

    return {
        **LIBRARY_ENVIRONMENT,
        "BABYLON_HOME": str(settings.home),
        "DAGSTER_HOME": str(settings.home / "dagster"),
        "DAGSTER_PG": dagster_dsn(settings),
    }


def prepare_dagster_home(settings: Settings) -> Path:
    """Creates DAGSTER_HOME, links the instance file into it and exports the variables; safe to repeat.

    The file is DAGSTER_INSTANCE_FILE, else the repository's `dagster.yaml`.

    Raises:
        DagsterHomeError: A file that is not ours stands in the way.
    """
    source = _repository_file(settings.dagster_instance_file or "dagster.yaml").resolve()
    environment = dagster_environment(settings)
    home = Path(environment["DAGSTER_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    link = home / "dagster.yaml"
    if link.is_symlink() and link.resolve() != source:
        link.unlink()  # an older checkout's
    elif link.exists() and not link.is_symlink():
        raise DagsterHomeError(
            f"{link} is a file of its own and hides the repository's dagster.yaml",
            "Move it away; settings belong in the repository's file.",
        )
    try:
        link.symlink_to(source)
    except FileExistsError:
        pass  # there already, or another process was faster
    os.environ.update(environment)
    return home


@contextmanager
def open_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """Opens the Dagster instance of this installation, on PostgreSQL storage as `dagster.yaml` says.

    It keeps its connections; without that each stored event would open several, which halves the speed of
    runs in this process.
    """
    prepare_dagster_home(settings)
    # One line per run and handler, about a feature that dagster.yaml asks for on purpose.
    warnings.filterwarnings("ignore", "Handling yaml-defined logging configuration", dg.BetaWarning)
    with dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(STATEMENT_TIMEOUT_MS, pool_recycle=3600, max_overflow=10)
        _begin_observing(instance)
        yield instance


def prepare_instance(settings: Settings) -> None:
    """Prepares DAGSTER_HOME and the instance in it before other processes open it; safe to repeat."""
    with open_instance(settings):
        pass


def _begin_observing(instance: dg.DagsterInstance) -> None:
    """Makes sure that something was observed of the recorded rows before the first window is made of them.

    Dagster compares an input with what it was when its output was made; of an input of which it knew nothing
    then, no later observation is news (`CachingStaleStatusResolver._is_dep_updated` in 1.13).
    """
    if not instance.fetch_observations(RECORDED_ROWS, limit=1).records:
        text = "From now on, a window of which other rows are observed is stale."
        instance.report_runless_asset_event(dg.AssetObservation(RECORDED_ROWS, description=text))


def _repository_file(name: str | Path) -> Path:
    path = REPOSITORY / name
    if not path.is_file():
        raise DagsterHomeError(
            f"{name} is not at {path}",
            "Run from a checkout installed with `pip install -e .` (`make install` does that).",
        )
    return path
