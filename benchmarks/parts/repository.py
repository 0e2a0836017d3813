"""Makes the doubles of the test suite importable: `import parts.repository` before `babylon_rl_tests`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))
