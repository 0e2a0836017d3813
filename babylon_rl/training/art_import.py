"""The one place that imports ART, because importing it changes the process.

ART reads ``.env`` files, fetches a price list over the network, and replaces a function of transformers with
one made for another version. All three are prevented or undone here. The import takes about seven seconds and
450 MB.
"""

import os
from types import ModuleType

QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "PYTHON_DOTENV_DISABLED": "1",
    "WANDB_DISABLE_WEAVE": "true",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}
"""Environment that keeps the import off the network and away from ``.env`` files."""


def import_art() -> ModuleType:
    """Import and return the ``art`` package without its side effects."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import art
    from art.transformers import patches
    from transformers import masking_utils

    masking_utils._preprocess_mask_arguments = patches._preprocess_mask_arguments
    return art
