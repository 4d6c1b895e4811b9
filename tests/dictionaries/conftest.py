"""Makes `publishers.py` importable for the tests beside it, which need its cases when they are collected."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
