"""Gives the core what the facade knows of dialects: the one place where the two meet in a process.

Hides that it is imported when it is first needed: an idle core does without its memory.
"""

from importlib import import_module

from core_service.ports import Translator


def load_translator() -> Translator:
    """Give the translator of quarantined events; slow at first."""
    translator: Translator = import_module("rest_facade.kept_events").KeptEvents()
    return translator
