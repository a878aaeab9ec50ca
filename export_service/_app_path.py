"""Where the four pipeline folders are: the checkout, or `_app/` inside an installed wheel."""

import sys
from pathlib import Path

_FOLDERS = ("connectors", "streams", "agents", "tables")


def app_root() -> Path:
    """The folder that holds `connectors`, `streams`, `agents` and `tables`."""
    packed = Path(__file__).parent / "_app"
    return packed if packed.is_dir() else Path(__file__).parent.parent


def make_importable() -> None:
    """Put our folders first on `sys.path`; refuse to run with somebody else's package of the same name."""
    root = str(app_root())
    if root in sys.path:
        sys.path.remove(root)
    sys.path.insert(0, root)
    for name in _FOLDERS:
        loaded = sys.modules.get(name)
        where = getattr(loaded, "__file__", None)
        if where is not None and not where.startswith(root):
            raise SystemExit(f"another package named {name!r} is already imported from {where}; run export-service in its own venv")
