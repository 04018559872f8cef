"""Refuses bad answers before anything is written: replayed ones are not checked when they are given.

Also refuses to copy what tools have left in the template's folder, and to write where nobody has said that
it may. The answers arrive as JSON in a raw string, in which a quote is always escaped, so that no answer can
end the string and become code.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

# cookiecutter leaves the rendered hook in the temporary directory for ever.
Path(__file__).unlink()

# One list: a string by itself would put its quote next to the three.
TEMPLATE, BAKE, ANSWERS = json.loads(r"""{{ [template_directory(), bake(), cookiecutter] | tojson }}""")

# Instead of the temporary directory, in which anybody may have put a json.py.
sys.path[0] = TEMPLATE
sys.dont_write_bytecode = True

from isc_template_answers import RULES, in_the_way, leftovers, problem  # noqa: E402

problems = [reason for question in RULES if (reason := problem(question, ANSWERS, BAKE["is_update"]))]
problems = problems or leftovers(Path(TEMPLATE))
if not BAKE["is_new"]:
    copied = ANSWERS.get("_copy_without_render", [])
    problems = problems or in_the_way(Path(BAKE["source"]), Path.cwd(), copied, BAKE["is_kept"])
if problems:
    sys.exit("\n".join(problems))
