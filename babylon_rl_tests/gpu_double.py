"""A double of the GPU trainer's process: same arguments, same events, no GPU; SCENARIO says what goes wrong.

python gpu_double.py worker.py REQUEST.json EVENTS_FD
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

FAKE_GPU = "a double of a GPU"


def main() -> None:
    asked, scenario = json.loads(Path(sys.argv[2]).read_text()), os.environ.get("SCENARIO", "")
    events = os.fdopen(int(sys.argv[3]), "w", buffering=1)

    def emit(**event: object) -> None:
        events.write(json.dumps(event) + "\n")

    if scenario == "crash at start":
        sys.exit("ImportError: libcuda.so.1: cannot open shared object file")
    emit(event="loaded", gpu=FAKE_GPU)
    groups = [json.loads(line) for line in Path(asked["groups"]).read_text().splitlines()]
    if scenario == "out of memory":
        emit(event="error", kind="out_of_memory", message="OutOfMemoryError: CUDA out of memory. Tried 2 GiB")
        sys.exit(1)
    if scenario == "other error":
        emit(event="error", kind="other", message="ValueError: bad chat template")
        sys.exit(1)
    if scenario == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if scenario == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if scenario == "hang":
        time.sleep(600)
    if scenario == "chatter":
        events.write("not json\n[1]\n")
    for done in (1, 2):
        metrics = {
            "loss/train": 0.5 / done,
            "data/step_num_gradient_steps": 2.0,
            "data/step_trainer_tokens": 8.0,
        }
        emit(event="step", done=done, metrics=metrics)
    if scenario == "nothing":
        sys.exit(0)
    checkpoint = write_adapter(asked, len(groups))
    if scenario == "pickle":
        (checkpoint / "adapter_model.safetensors").rename(checkpoint / "adapter_model.bin")
    problem = {"problem": "APIConnectionError: vLLM is gone"} if scenario == "no answer" else {"text": "HOLD"}
    emit(event="answer", **problem)
    emit(event="done", checkpoint=str(checkpoint), step=asked["step"] + 1, metrics={"loss/train": 0.375})


def write_adapter(asked: dict, groups: int) -> Path:
    """What ART's LocalBackend leaves; starts from the parent where there is one."""
    from safetensors.numpy import load_file, save_file

    folder = Path(asked["art_path"]) / asked["project"] / "models" / asked["name"] / "checkpoints"
    target = folder / f"{asked['step'] + 1:04d}"
    shutil.rmtree(folder, ignore_errors=True)
    target.mkdir(parents=True)
    import numpy as np

    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    before = np.zeros((asked["peft"]["r"], 8), dtype=np.float32)
    if asked["parent"]:
        before = load_file(Path(asked["parent"]) / "adapter_model.safetensors")[name]
    save_file({name: before + groups}, target / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": asked["peft"]["r"],
        "lora_alpha": asked["peft"]["lora_alpha"],
        "target_modules": ["q_proj"],
        "base_model_name_or_path": asked["base_model"],
    }
    (target / "adapter_config.json").write_text(json.dumps(config))
    return target


if __name__ == "__main__":
    main()
