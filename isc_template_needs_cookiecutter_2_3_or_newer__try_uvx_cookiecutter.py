"""What cookiecutter loads of this template: one line for what is too old to go on with, else the extension.

Its name is a message, too: cookiecutter 1 finds no module of a template, and shows nothing but this name.

It must be readable for any Python 3. It is the only file that is imported; a bake reads all others anew.
`cruft update` renders two versions of the template in one process, one after the other in the same directory,
and an imported module would be the old version's in both. So what is here must also do for later versions.
"""

from __future__ import annotations

import logging
import re
import runpy
import shlex
import sys
from pathlib import Path

import cookiecutter
from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment
from jinja2.ext import Extension

COOKIECUTTER = (2, 3)
PYTHON = (3, 10)


class Refused(FailedHookException, SystemExit):  # type: ignore[misc]  # cookiecutter brings no types
    """A person's mistake, in one line, which is all that is shown of it.

    cookiecutter prints the message of the first base alone. cruft catches nothing, and Python itself prints
    that of the second one without a traceback.
    """

    def __init__(self, reason: str) -> None:
        """Ends the bake with `reason`."""
        super().__init__(reason)
        self.code = reason


class TemplateAnswers(Extension):
    """Puts the filters and checks of `isc_template_extension` into cookiecutter's Jinja environment."""

    def __init__(self, environment: Environment) -> None:
        """Prepares one environment; cookiecutter makes one for the questions, one for the files, one a hook.

        Raises:
            Refused: cookiecutter or Python is too old, or an answer was given to what is no question.
        """
        super().__init__(environment)
        _refuse_what_is_too_old()
        # A hook that fails has said why. cookiecutter would add that it failed, with a traceback of its own.
        logging.getLogger("cookiecutter.hooks").addFilter(_is_no_failure)
        extension = Path(__file__).with_name("isc_template_extension.py")
        runpy.run_path(str(extension))["prepare"](environment, Refused)


def _refuse_what_is_too_old() -> None:
    program = "cruft" if "cruft" in sys.modules else "cookiecutter"
    words = " ".join(shlex.quote(word) for word in sys.argv[1:])  # shlex.join is not in every Python 3
    if sys.version_info < PYTHON:
        found = "Python 3.10 or newer, and this is {}.{}".format(*sys.version_info[:2])
        raise Refused(f"isc-template needs {found}. Run: uvx --python 3.12 {program} {words}")
    if tuple(map(int, re.findall(r"\d+", cookiecutter.__version__)[:2])) < COOKIECUTTER:
        found = f"cookiecutter 2.3 or newer, and this is {cookiecutter.__version__}"
        raise Refused(f"isc-template needs {found}. Run: uvx {program} {words}")


def _is_no_failure(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR
