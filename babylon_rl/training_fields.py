"""The environment variables of training: hyperparameters, and how a run behaves, stores and costs."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from babylon_rl.setting_fields import HttpUrl, WandbName, WindowId


class HyperparameterFields(BaseSettings):
    """Training: hyperparameters. Unset means the backend's own default; what it cannot do is refused"""

    iterations_per_window: int | None = Field(
        None, gt=0, description="Passes over a batch (PPO epochs). Embedded: 4 where unset."
    )
    batch_size: int | None = Field(
        None, gt=0, description="Sequences per forward pass. Embedded: a quarter of the batch where unset."
    )
    gradient_accumulation_steps: int | None = Field(
        None, gt=0, description="Forward passes per optimiser step. Embedded: 1 where unset."
    )
    warmup_steps: int | None = Field(
        None, ge=0, description="Optimiser steps until the learning rate is full. Embedded: 0 where unset."
    )
    max_grad_norm: float | None = Field(
        None, gt=0, description="Norm to which a gradient is clipped. Embedded: 1 where unset."
    )
    kl_penalty: float | None = Field(
        None, ge=0, description="Weight of the divergence from the reference policy. 0 where unset."
    )
    gamma: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Discount. An episode has one reward and no backend discounts: only 1 is possible.",
    )
    checkpoint_frequency: int | None = Field(
        None,
        ge=1,
        description="Windows per chunk of a batch; each chunk is a checkpoint. Unset: as many as fit.",
    )
    training_method: Literal["full", "lora"] | None = Field(
        None, description="Train every weight, or a LoRA adapter. Embedded: full where unset."
    )
    lora_rank: int | None = Field(None, ge=1, le=256, description="Rank of an adapter. 8 where unset.")
    lora_alpha: float | None = Field(
        None, gt=0, description="An adapter's update is scaled by this over its rank. 16 where unset."
    )
    training_epsilon: float | None = Field(
        None, gt=0, description="Clipping of the importance ratio. Embedded: 0.2 (PPO) where unset."
    )
    importance_sampling: Literal["token", "sequence"] | None = Field(
        None,
        description="Importance ratio of each token, or of whole answers. Embedded: sequence where unset.",
    )
    truncated_importance: float | None = Field(
        None,
        ge=1,
        description="Cap of the weight from the recorded policy to the parent (2 is usual). Unset: none.",
    )
    negative_veto: float | None = Field(
        None,
        gt=0,
        description="Leaves out bad answers that the parent would hardly give: log ratio below minus this.",
    )
    negative_spare: float | None = Field(
        None,
        gt=0,
        le=1,
        description="A bad answer does not push down tokens that the parent gave more than this probability: "
        "grammar, not choices. Embedded: 0.98 where unset; 1 spares none.",
    )
    second_moment: float | None = Field(
        None, gt=0, description="Bound of the mean squared log ratio (0.04 is usual). Unset: none."
    )
    scale_rewards: bool | None = Field(
        None, description="Divide advantages by their window's deviation. Off: it makes quiet hours loud."
    )
    training_seed: int | None = Field(None, ge=0, description="Seed of the training. 0 where unset.")
    training_precision: Literal["auto", "float32", "bfloat16"] | None = Field(
        None, description="Arithmetic of the forward pass. auto, where unset: bfloat16 on a GPU."
    )
    training_optimizer_state: Literal["fresh", "continue"] | None = Field(
        None, description="continue keeps Adam's moments from checkpoint to checkpoint. fresh where unset."
    )


class TrainingRunFields(BaseSettings):
    """Training: how a run behaves, where it stores, what it costs"""

    mode: Literal["single", "list", "continuous"] = Field(
        "single", description="What `babylon train` does without --mode."
    )
    window_id: WindowId | None = Field(
        None, description="Window that `babylon train` trains on a side branch, without --window."
    )
    min_actions_per_trajectory: int | None = Field(
        None, ge=0, description="Actions that an agent's hour needs to be trained. Unset: any number."
    )
    foreign_text: Literal["drop", "positive"] = Field(
        "drop",
        description="positive imitates calls without logprobs of episodes that beat their window (embedded).",
    )
    unconfirmed_calls: Literal["auto", "drop", "train"] = Field(
        "auto",
        description="Calls that the gateway never served, though the game's rows claim them. auto: drop in "
        "production, else train.",
    )
    max_versions_behind: int | None = Field(
        None,
        ge=0,
        description="Newer live versions than the one that answered a call, at most. Unset: any number.",
    )
    training_credit: Literal["decision", "episode"] = Field(
        "decision",
        description="decision: an answer is paid for its own orders, where the scorer rewards decisions "
        "(pnl). episode: for all of its agent's hour.",
    )
    residual_rewards: bool = Field(
        False,
        description="true pays what resolutions add to windows of trained days in the next batch. Off: it "
        "has not been shown to help, and resolutions are noisier than an hour.",
    )
    grouping: Literal["window", "resample"] = Field(
        "window",
        description="What is compared: all agents of a window, or several new answers of the parent to each "
        "of the day's recorded prompts, priced against what then happened.",
    )
    resample_prompts: int = Field(
        128, ge=10, le=10_000, description="Recorded prompts of a day that GROUPING=resample asks at most."
    )
    resample_answers: int = Field(8, ge=2, le=64, description="Answers to each of them.")
    resample_daily_budget_usd: float = Field(
        5.0,
        ge=0,
        description="Dollars per UTC day for answers of a server, by PRICE_TABLE; what could exceed them is "
        "not asked. Embedded answers cost nothing.",
    )
    training_min_effective_episodes: float | None = Field(
        None, gt=0, description="Effective episodes ((sum |A|)^2 / sum A^2) that a day needs. Unset: any."
    )
    training_min_split_half: float | None = Field(
        None, ge=-1, le=1, description="Split-half reliability of advantages that a day needs. Unset: any."
    )
    training_min_pnl_spearman: float | None = Field(
        None, ge=-1, le=1, description="Rank correlation of reward and P&L that a day needs. Unset: any."
    )
    model_name: WandbName = Field(
        "babylon-agent", description="Name of our model at the training backend and in W&B."
    )
    model_storage_url: str | None = Field(
        None,
        min_length=1,
        description="Private place for each trained checkpoint (s3://, gs://, file://, …). Unset: none.",
    )
    training_api_url: HttpUrl = Field(
        "https://api.training.wandb.ai/v1", description="W&B Training's API (serverless)."
    )
    training_poll_seconds: float = Field(
        2.0, gt=0, description="Seconds between two looks at a serverless job."
    )
    training_deadline_minutes: float = Field(
        360.0, gt=0, description="Minutes that a run follows a job or waits for the GPU before it gives up."
    )
    training_grace_seconds: float = Field(
        900.0, ge=0, description="Seconds that a lost submission gets to appear before it is in doubt."
    )
    training_lease_seconds: float = Field(
        60.0, gt=0, description="Seconds after which a silent training may be taken over."
    )
    training_chunk_bytes: int | None = Field(
        None, ge=1024, description="Largest submission. Unset: 16 MiB serverless, no limit elsewhere."
    )
    training_rewind: bool = Field(
        False,
        description="true lets serverless delete rejected checkpoints that are newer than the parent.",
    )
    local_gpu_python: Path | None = Field(
        None, description="Python of the GPU backend's environment. Unset: BABYLON_HOME/local-gpu."
    )
    local_gpu_silence_minutes: float = Field(
        30.0, gt=0, description="Minutes without a sign of life after which the GPU trainer is stopped."
    )
    price_table: Path | None = Field(
        None, description="JSON file with prices in USD. Unset: the table of `babylon costs --prices`."
    )
