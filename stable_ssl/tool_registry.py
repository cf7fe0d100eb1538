"""Tools that a run starts by name, imported when they start: the core imports none.

A tool is a function of a trainer after `setup`. Where a tool is missing, a run that
asks for it says so in one sentence.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from stable_ssl.instantiate import find_object
from stable_ssl.run import Run
from stable_ssl.schema import ConfigError

MODES = {  # what `mode` asks besides fit, validate and test
    "predict": "stable_ssl.tools.predict.predict",
    "export": "stable_ssl.tools.export.export_run",
    "profile_data": "stable_ssl.tools.profile.profile_data",
    "profile_model": "stable_ssl.tools.profile.profile_model",
}
IMAGE_CALLBACK = "stable_ssl.tools.image_callback.ImageCallback"
SUMMARY = "stable_ssl.tools.summary.end_of_run"
CHECK_EXPORT = "stable_ssl.tools.export.check_types"


def run_tool(path: str, run: Run) -> None:
    """Call a tool at the end of a run; where it fails, a warning says why.

    The weights are saved by then, so that the run does not fail because of a tool.

    Args:
        path: dotted.
        run: the trainer.
    """
    try:
        find_object(path, "the tool")(run)
    except Exception as error:
        reason = error if isinstance(error, ConfigError) else repr(error)
        warnings.warn(f"the run is complete, but {path} failed: {reason}", stacklevel=2)


def check_tools(export_types: Sequence[str]) -> None:
    """Refuse, before anything is trained, what no tool could do at the end.

    Args:
        export_types: of `log.export`.

    Raises:
        ConfigError: says what to install.
    """
    if export_types:
        find_object(CHECK_EXPORT, "log.export.types")(export_types)
