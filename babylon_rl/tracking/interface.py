"""What a tracked run can do, and the run that does nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self


@dataclass(frozen=True)
class LoggedArtifact:
    """An artifact as it was handed to W&B.

    Attributes:
        name: Collection in the project.
        type: W&B's artifact type, such as `dataset` or `model`.
        digest: W&B's digest of the content, the same online and offline; None where nothing was logged.
        aliases: As logged: `:` and `/`, which W&B refuses, are replaced by `-`.
    """

    name: str
    type: str
    digest: str | None
    aliases: tuple[str, ...] = ()


class Run(Protocol):
    """One tracked unit of work: the materialization of an asset, a training unit, a benchmark."""

    @property
    def id(self) -> str:
        """Deterministic; a retry of the same work continues the same run."""
        ...

    @property
    def mode(self) -> str:
        """`online`, `offline` or `none`, as opened: an unreachable server turns online into offline."""
        ...

    @property
    def url(self) -> str | None:
        """The run's page, only online."""
        ...

    @property
    def degraded(self) -> str | None:
        """Why something is missing in W&B; None while nothing is."""
        ...

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Logs one row of metrics; steps may come in any order and may be repeated."""
        ...

    def log_artifact(
        self,
        name: str,
        type: str,
        *,
        path: Path | None = None,
        metadata: Mapping[str, Any] | None = None,
        aliases: Sequence[str] = (),
        inputs: Sequence[LoggedArtifact] = (),
        used: bool = False,
    ) -> LoggedArtifact:
        """Logs a file or a folder, or, without `path`, the metadata alone as a file of its own.

        Args:
            name: Collection; characters outside of `A-Za-z0-9_.-` are replaced by `-`.
            type: W&B's artifact type.
            path: Must stay unchanged: W&B reads it later, offline perhaps days later.
            metadata: JSON values. Goes to W&B: no prompts, outcomes or judge texts.
            aliases: Names of this version, such as a window's id or `production`.
            inputs: The artifacts that this one was made from; stored in the metadata as lineage.
            used: The run reads the artifact and does not make it. W&B knows that online only; offline it is
                logged like any other.
        """
        ...

    def summary(self, values: Mapping[str, Any]) -> None:
        """Sets the run's final figures."""
        ...

    def close(self, failed: bool = False) -> None:
        """Ends the run; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class NullRun:
    """The run of WANDB_MODE=none."""

    mode = "none"
    url = None
    degraded = None

    def __init__(self, id: str) -> None:
        self.id = id

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Does nothing."""

    def log_artifact(
        self,
        name: str,
        type: str,
        *,
        path: Path | None = None,
        metadata: Mapping[str, Any] | None = None,
        aliases: Sequence[str] = (),
        inputs: Sequence[LoggedArtifact] = (),
        used: bool = False,
    ) -> LoggedArtifact:
        """Returns an artifact without a digest."""
        return LoggedArtifact(name, type, None, tuple(aliases))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Does nothing."""

    def close(self, failed: bool = False) -> None:
        """Does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
