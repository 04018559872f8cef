"""What a bake costs, with all checks and hooks, against an empty template without any.

    python benchmarks/bakes.py [--rounds 15] [--json FILE]

Of what is committed. Wall time of the command `cookiecutter --no-input`; it takes turns with the same for a
template of one file, and for one that has two hooks besides, which do nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from report import ROOT, Report, parser, seconds_of, take_turns


def empty_template(directory: Path, hooks: bool) -> Path:
    """A template with one question and one file, and two hooks that do nothing if they are wanted."""
    (directory / "{{cookiecutter.slug}}").mkdir(parents=True)
    (directory / "{{cookiecutter.slug}}" / "README.md").write_text("{{ cookiecutter.slug }}\n")
    (directory / "cookiecutter.json").write_text(json.dumps({"slug": "empty"}))
    if hooks:
        (directory / "hooks").mkdir()
        for name in ("pre_gen_project.py", "post_gen_project.py"):
            (directory / "hooks" / name).write_text("")
    return directory


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=15)
    arguments = options.parse_args()
    report = Report("bakes")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        environment = {**os.environ, "HOME": name}  # no settings of a person

        def bake(template: Path) -> float:
            shutil.rmtree(place / "baked", ignore_errors=True)
            command = ["-m", "cookiecutter", str(template), "--no-input", "-o", str(place / "baked")]
            return seconds_of(
                lambda: subprocess.run(
                    [sys.executable, *command], env=environment, capture_output=True, check=True
                )
            )

        template, empty = place / "template", empty_template(place / "empty", hooks=False)
        hooked = empty_template(place / "hooked", hooks=True)
        subprocess.run(["git", "clone", "--quiet", ROOT, template], check=True)
        peers = {"ours": template, "empty": empty, "hooked": hooked}
        seconds = take_turns({name: partial(bake, path) for name, path in peers.items()}, arguments.rounds)
    report.figure("a bake of this template, s", seconds["ours"])
    report.figure("a bake of an empty one, s", seconds["empty"])
    report.figure("a bake of an empty one with two hooks, s", seconds["hooked"])
    report.ratio("against an empty one", seconds["ours"] / seconds["empty"], most=1.35)
    report.ratio("against an empty one with two hooks", seconds["ours"] / seconds["hooked"])
    report.write(arguments.json)


if __name__ == "__main__":
    main()
