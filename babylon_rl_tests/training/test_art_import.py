"""What a process looks like after `import_art`, and which imports load no heavy library."""

import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import babylon_rl

HEAVY = (
    "art",
    "litellm",
    "matplotlib",
    "pandas",
    "peft",
    "polars",
    "scipy",
    "torch",
    "transformers",
    "wandb",
)
ROOMS = ("policy", "training", "simulation", "benchmark", "deployment", "serving")

WATCHED = """
import json, os, sys
import dotenv.main
contacted = []
# ART looks for the file above its own folder, where a checkout with its environment inside has one.
dotenv.main.find_dotenv = lambda *_, **__: os.path.abspath(".env")

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        contacted.append(repr(arguments[1:]))

sys.addaudithook(watch)
from transformers import masking_utils
before = masking_utils._preprocess_mask_arguments
from babylon_rl.training.art_import import import_art
art = import_art()
after = masking_utils._preprocess_mask_arguments
print(json.dumps({
    "contacted": contacted,
    "restored": after is before,
    "module": after.__module__,
    "secret": os.environ.get("BABYLON_SECRET_OF_THE_ENV_FILE"),
    "again": import_art() is art,
    "trajectory": hasattr(art, "TrajectoryGroup"),
}))
"""


def run(program: str, folder: Path) -> Any:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_art_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BABYLON_SECRET_OF_THE_ENV_FILE=1\n")
    assert run(WATCHED, tmp_path) == {
        "contacted": [],
        "restored": True,
        "module": "transformers.masking_utils",
        "secret": None,
        "again": True,
        "trajectory": True,
    }


def test_the_rooms_load_without_heavy_libraries(tmp_path: Path) -> None:
    modules = [
        module.name
        for room in ROOMS
        for module in pkgutil.iter_modules([str(Path(babylon_rl.__path__[0]) / room)], f"babylon_rl.{room}.")
    ]
    assert "babylon_rl.training.embedded" in modules
    program = (
        f"import importlib, json, sys\nfor module in {modules}: importlib.import_module(module)\n"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    )
    assert run(program, tmp_path) == []
