"""How often Python looks for garbage that refers to itself."""

import gc

_OBJECTS = 20_000


def collect_seldom() -> None:
    """Not after each 700 new objects, which a fetch of records brings many times over, and never among what is there by now and stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS, 10, 10)
