"""From a registered model to the target that serves it: the embedded engine or a server, after the settings.

Every HTTP upstream has one connection pool, whichever versions it serves.
"""

import asyncio
import logging

from babylon_rl.deployment.registry import ModelRecord
from babylon_rl.deployment.storage import local_path, open_engine
from babylon_rl.errors import BabylonError
from babylon_rl.serving.engine_upstream import EngineUpstream
from babylon_rl.serving.errors import GatewaySetupError, UpstreamFailure
from babylon_rl.serving.http_upstream import HttpUpstream, HttpUpstreamConfig, Kind
from babylon_rl.serving.upstream import Target, Timeouts
from babylon_rl.settings import Settings

log = logging.getLogger(__name__)

WANDB_INFERENCE = "https://api.inference.wandb.ai/v1"
ARTIFACT = "wandb-artifact:"


class AdapterError(BabylonError):
    """A server did not load an adapter."""


class TargetOpener:
    """Opens targets.

    Raises:
        GatewaySetupError: the settings contradict each other.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._timeouts = Timeouts(
            settings.gateway_connect_seconds,
            settings.gateway_first_token_seconds,
            settings.gateway_total_seconds,
        )
        self._upstreams: dict[str, HttpUpstream] = {}
        kind, url = settings.gateway_upstream_kind, settings.gateway_upstream_url
        if kind in ("openai", "vllm") and url is None:
            raise GatewaySetupError(
                f"GATEWAY_UPSTREAM_KIND={kind} needs an address", "Set GATEWAY_UPSTREAM_URL, with /v1."
            )
        if kind == "embedded" and url is not None:
            raise GatewaySetupError(
                "GATEWAY_UPSTREAM_URL is set, and GATEWAY_UPSTREAM_KIND=embedded uses no server",
                "Remove one of them.",
            )

    async def open(self, model: ModelRecord) -> Target:
        """The target of a version; loading a checkpoint into the engine takes seconds, in a thread.

        Raises:
            BabylonError: its checkpoint is unusable, or its server did not take it.
        """
        kind = self._kind(model)
        if kind is None:
            engine = await asyncio.to_thread(open_engine, model)
            return Target(model.version, EngineUpstream(engine, self._timeouts), model.model_id)
        upstream = self._wandb() if kind == "wandb" else self._server(kind)
        name = self._name(model, kind)
        if self._settings.gateway_load_lora and kind == "vllm" and not model.is_base:
            await _load_adapter(upstream, name, model)
        return Target(model.version, upstream, name)

    async def open_named(self, version: str, name: str) -> Target:
        """A model that is not in the registry, by its name at the server or at W&B Inference.

        Args:
            version: what its answers are recorded as.

        Raises:
            GatewaySetupError: nothing here serves other models.
        """
        kind, url = self._settings.gateway_upstream_kind, self._settings.gateway_upstream_url
        if kind == "embedded" or (url is None and self._settings.wandb_api_key is None):
            raise GatewaySetupError(
                f"the model {name[:100]!r} is not registered, and no server is set that could have it",
                "Register it, set GATEWAY_UPSTREAM_URL or WANDB_API_KEY, or clear SystemSettings.wandbModel.",
            )
        if kind in ("openai", "vllm"):
            return Target(version, self._server(kind), name)
        return Target(
            version, self._wandb() if url is None or kind == "wandb" else self._server("vllm"), name
        )

    async def open_fallback(self, base: ModelRecord) -> Target:
        """The target of the base model as the last resort: on a server of its own where one is set."""
        settings = self._settings
        if settings.gateway_fallback_url is None:
            return await self.open(base)
        key = settings.gateway_fallback_api_key
        upstream = self._http(
            HttpUpstreamConfig(
                name="fallback",
                url=settings.gateway_fallback_url,
                api_key=None if key is None else key.get_secret_value(),
                timeouts=self._timeouts,
            )
        )
        return Target(base.version, upstream, settings.gateway_fallback_model or self._base_name(base))

    async def open_reference(self, target: Target, base: ModelRecord, opened: Target | None) -> Target:
        """The base model beside a target, under the same numerics, to compare it with.

        Args:
            opened: the base model's target if there is one; used where it fits.
        """
        if isinstance(target.upstream, HttpUpstream):
            return Target(base.version, target.upstream, self._base_name(base))
        if opened is not None and isinstance(opened.upstream, EngineUpstream):
            return opened
        return Target(base.version, EngineUpstream(await asyncio.to_thread(open_engine, base)), base.model_id)

    def names_of_base(self, base: ModelRecord) -> frozenset[str]:
        """Names by which clients may ask for the base model."""
        return frozenset(filter(None, (base.base_model, self._settings.gateway_fallback_model)))

    async def close(self) -> None:
        for upstream in self._upstreams.values():
            await upstream.close()

    def _kind(self, model: ModelRecord) -> Kind | None:
        """None means the embedded engine."""
        settings, path = self._settings, model.storage_path or ""
        if settings.gateway_upstream_kind != "auto":
            return None if settings.gateway_upstream_kind == "embedded" else settings.gateway_upstream_kind
        if settings.gateway_upstream_url is not None:
            return "vllm"
        return "wandb" if path.startswith(ARTIFACT) or not path else None

    def _name(self, model: ModelRecord, kind: Kind) -> str:
        if model.is_base:
            return self._base_name(model)
        if kind != "wandb":
            return self._settings.gateway_upstream_model.replace("{version}", model.version)
        path = model.storage_path or ""
        if not path.startswith(ARTIFACT):
            raise GatewaySetupError(
                f"the checkpoint of {model.version} is at {path!r}, which W&B Inference does not serve",
                "Set GATEWAY_UPSTREAM_KIND to what serves it, or deploy a version that W&B trained.",
            )
        return path

    def _base_name(self, model: ModelRecord) -> str:
        return self._settings.base_model or model.base_model

    def _server(self, kind: Kind) -> HttpUpstream:
        settings = self._settings
        assert settings.gateway_upstream_url is not None
        key = settings.gateway_upstream_api_key
        return self._http(
            HttpUpstreamConfig(
                name="upstream",
                url=settings.gateway_upstream_url,
                kind=kind,
                api_key=None if key is None else key.get_secret_value(),
                timeouts=self._timeouts,
                logprobs_of=settings.gateway_logprobs_of,
            )
        )

    def _wandb(self) -> HttpUpstream:
        settings = self._settings
        key, entity = settings.require_wandb("W&B Inference")
        return self._http(
            HttpUpstreamConfig(
                name="wandb",
                url=settings.gateway_upstream_url or WANDB_INFERENCE,
                kind="wandb",
                api_key=key,
                headers={"openai-project": f"{entity}/{settings.wandb_project}"},
                timeouts=self._timeouts,
                logprobs_of=settings.gateway_logprobs_of,
            )
        )

    def _http(self, config: HttpUpstreamConfig) -> HttpUpstream:
        return self._upstreams.setdefault(config.name, HttpUpstream(config))


async def _load_adapter(upstream: HttpUpstream, name: str, model: ModelRecord) -> None:
    """vLLM's runtime loading (https://docs.vllm.ai/en/latest/features/lora/): the path is the server's."""
    path = local_path(model)
    try:
        status, message = await upstream.post_json(
            "load_lora_adapter", {"lora_name": name, "lora_path": str(path)}
        )
    except UpstreamFailure as failure:
        raise AdapterError(
            f"the server of {model.version} cannot be asked to load its adapter: {failure.reason}",
            "Check GATEWAY_UPSTREAM_URL; it is tried again.",
        ) from None
    if status != 200 and "already" not in message:
        raise AdapterError(
            f"the server did not load the adapter of {model.version} ({status}): {message}",
            "Start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, in sight of it.",
        )
    log.info("the server has the adapter of %s", model.version)
