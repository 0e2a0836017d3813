"""TRL's side of `training_throughput.py`; runs in an environment of its own and imports nothing of ours.

    python trl_side.py JOB        # a JSON file: model, prompts, answers, limit, epochs, minibatches, cycles

A cycle is what `GRPOTrainer` does with one batch of prompts: sample, score, update. Before each one a line is
awaited on standard input; after it one is printed: CPU seconds of sampling and of everything else, and the
completion tokens. The CPU seconds are this process's, all threads.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}


def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A score with a spread that costs nothing."""
    return [sum(ids) % 97 / 97 for ids in completion_ids]


def main() -> None:
    import torch
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    job = json.loads(Path(sys.argv[1]).read_text())
    replies = os.fdopen(os.dup(1), "w")  # what TRL prints must not mix with our lines
    os.dup2(2, 1)
    steps = job["epochs"] * job["minibatches"]
    rows = len(job["prompts"]) * job["answers"]
    config = GRPOConfig(
        output_dir=job["scratch"],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=rows // job["minibatches"],
        steps_per_generation=job["minibatches"],
        num_iterations=job["epochs"],
        num_generations=job["answers"],
        max_completion_length=job["limit"],
        max_steps=steps * job["cycles"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        beta=0.0,
        epsilon=0.2,
        temperature=1.0,
        shuffle_dataset=False,
        save_strategy="no",
        logging_steps=10**6,
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in job["prompts"]]),
    )
    spent = {"began": 0.0, "sampling": 0.0, "tokens": 0}
    sample, cycle = trainer._generate_single_turn, trainer._generate_and_score_completions

    def sampled(*given: Any, **named: Any) -> Any:
        began = time.process_time()
        answers = sample(*given, **named)
        spent["sampling"] = time.process_time() - began
        spent["tokens"] = sum(map(len, answers[0]))
        return answers

    def finish() -> None:
        total = time.process_time() - spent["began"]
        line = {"sampling": spent["sampling"], "update": total - spent["sampling"]}
        print(json.dumps(line | {"tokens": spent["tokens"]}), file=replies, flush=True)

    def next_cycle(*given: Any, **named: Any) -> Any:
        if spent["began"]:
            finish()
        sys.stdin.readline()
        spent["began"] = time.process_time()
        return cycle(*given, **named)

    trainer._generate_single_turn, trainer._generate_and_score_completions = sampled, next_cycle
    trainer.train()
    finish()


if __name__ == "__main__":
    main()
