"""Tools that a run starts by name, found at that moment: the core imports none.

A tool is a function of a trainer after `setup`. Each could be deleted, and a run that
asks for it would say so in a sentence.
"""

from __future__ import annotations

import warnings
from typing import Any

from stable_ssl.objects import find_object
from stable_ssl.schema import ConfigError

MODES = {  # what `mode` asks besides fit, validate and test
    "predict": "stable_ssl.tools.predict.predict",
    "export": "stable_ssl.tools.export.export_run",
    "profile_data": "stable_ssl.tools.profile.profile_data",
    "profile_model": "stable_ssl.tools.profile.profile_model",
}
GALLERY = "stable_ssl.tools.gallery.Gallery"
SUMMARY = "stable_ssl.tools.summary.end_of_run"
CHECK_EXPORT = "stable_ssl.tools.export.check_types"


def run_tool(path: str, run: Any) -> None:
    """Let a tool look at a run that is done; where it cannot, a warning says why.

    What the run has learned is saved by then, so that no tool is a reason to fail.

    Args:
        path: dotted.
        run: the trainer.
    """
    try:
        find_object(path, "the tool")(run)
    except Exception as error:
        why = error if isinstance(error, ConfigError) else repr(error)
        warnings.warn(f"the run is complete, but {path} failed: {why}", stacklevel=2)


def check_tools(log: Any) -> None:
    """Refuse, before anything is trained, what no tool could do at the end.

    Args:
        log: group `log`.

    Raises:
        ConfigError: says what to install.
    """
    if log.export.types:
        find_object(CHECK_EXPORT, "log.export.types")(log.export.types)
