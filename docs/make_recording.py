"""Records `make demo` as demo.svg: a real run, each line when it came, pauses shortened.

python docs/make_recording.py
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
COLUMNS, ROWS = 113, 28
LONGEST_PAUSE, LAST = 1.2, 6.0  # seconds
WIDTH, LINE, TOP = 8.43, 20, 44  # of a character, of a line, of the window's head
COLORS = {r"\$ ": "#7ee0c6", r"  --- kill": "#ff8f87", r".*(no saved step lost|Ready to submit)": "#9be28a"}


@dataclass(frozen=True)
class Line:
    """A line, and when it comes, in seconds."""

    at: float
    words: str


def record() -> list[Line]:
    """Runs the demonstration; exits if it fails."""
    command = [sys.executable, str(ROOT / "tests" / "demo.py")]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        assert demo.stdout is not None
        lines, now, before = [Line(0.0, "$ make demo")], 0.8, time.monotonic()
        for words in demo.stdout:
            pause, before = time.monotonic() - before, time.monotonic()
            now += max(0.05, min(pause, LONGEST_PAUSE))
            lines += [Line(now, part) for part in shown(words)]
    if demo.returncode:
        sys.exit(f"The demonstration ended with exit code {demo.returncode}.")
    return lines


def shown(words: str) -> list[str]:
    """What is shown of a line: no date, no place of the repository, in parts that the window holds."""
    words = words.rstrip().replace(f"{ROOT}/build/", "").replace(f"{ROOT}", ".")
    words = re.sub(r"\d{4}-\d\d-\d\d (\d\d:\d\d:\d\d),\d+ - \w+ - \w+ - ", r"\1 ", words)
    words = re.sub(r"path \S+, mode \w+, ", "", words)
    parts = []
    while len(words) > COLUMNS:
        end = words.rfind(" ", COLUMNS // 2, COLUMNS)
        end = COLUMNS if end < 0 else end
        parts.append(words[:end])
        words = "    " + words[end:].lstrip()
    return [*parts, words]


def svg(lines: list[Line]) -> str:
    """A window in which the lines come one after the other, and which rolls up when it is full."""
    length = lines[-1].at + LAST
    width, height = round(COLUMNS * WIDTH) + 32, TOP + ROWS * LINE + 14
    rolled = [(line.at, number - ROWS + 1) for number, line in enumerate(lines) if number >= ROWS]
    steps = "".join(f"{at / length:.2%}{{transform:translateY({-LINE * up}px)}}" for at, up in rolled)
    end = f"translateY({-LINE * max(0, len(lines) - ROWS)}px)"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img">',
            "<title>make demo: a training is killed and goes on; then a rehearsal of the ISC</title>",
            "<style>text{font:14px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}",
            f"@keyframes roll{{0%{{transform:none}}{steps}to{{transform:{end}}}}}",
            f"#lines{{animation:roll {length:.2f}s step-end infinite}}",
            *(style(number, line.at / length, length) for number, line in enumerate(lines)),
            f"@media (prefers-reduced-motion){{text,#lines{{animation:none}}#lines{{transform:{end}}}}}",
            "</style>",
            f'<rect width="{width}" height="{height}" rx="10" fill="#16202a"/>',
            *(f'<circle cx="{22 + 20 * n}" cy="20" r="6" fill="#44525f"/>' for n in range(3)),
            f'<clipPath id="window"><rect y="{TOP - 16}" width="{width}" height="{ROWS * LINE + 8}"/>',
            "</clipPath>",
            '<g clip-path="url(#window)"><g id="lines">',
            *(drawn(number, line) for number, line in enumerate(lines)),
            "</g></g></svg>\n",
        ]
    )


def style(number: int, share: float, length: float) -> str:
    """When a line comes, as a share of the whole."""
    return (
        f"@keyframes l{number}{{0%{{opacity:0}}{share:.2%}{{opacity:1}}to{{opacity:1}}}}"
        f"#l{number}{{animation:l{number} {length:.2f}s step-end infinite}}"
    )


def drawn(number: int, line: Line) -> str:
    """A line in its place and colour."""
    color = next((color for begin, color in COLORS.items() if re.match(begin, line.words)), "#dbe4ec")
    return f'<text id="l{number}" x="16" y="{TOP + LINE * number}" fill="{color}">{escape(line.words)}</text>'


if __name__ == "__main__":
    (DOCS / "demo.svg").write_text(svg(record()))
