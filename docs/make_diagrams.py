"""Draws overview.svg, the way from a laptop to the ISC, and checkpoint.svg, the way of a checkpoint.

python docs/make_diagrams.py
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parent
INK, GREY, TEAL, RED = "#1f2933", "#667380", "#0f766e", "#b42318"
PALE, PAPER = "#e6f4f1", "#ffffff"
SANS = "system-ui, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"

STAGES = (  # name, what happens there, how
    ("Your machine", "train, kill it, train on", "python train.py"),
    ("Check", "launch file, lock, image, secrets, data", "python -m isc_runtime check"),
    ("Rehearse", "run it as the ISC would: kills, syncs, resumes", "python -m isc_runtime rehearse"),
    ("Image", "the same environment everywhere", "make image"),
    ("ISC", "a cycle ends at any moment; the next one resumes", "python -m isc_runtime submit"),
)


def overview() -> str:
    """From a laptop to the ISC, in five stages, one below the other."""
    parts = []
    for number, (name, what, command) in enumerate(STAGES):
        top = 14 + number * 82
        parts += [
            box(70, top, 500, 62, PALE if number == len(STAGES) - 1 else PAPER),
            text(88, top + 26, name, size=18, weight=700),
            text(552, top + 26, command, size=14, font=MONO, color=TEAL, anchor="end"),
            text(88, top + 49, what, size=15, color=GREY),
        ]
        if number:
            parts.append(arrow([(320, top - 20), (320, top - 2)]))
    parts += [
        arrow([(570, 209), (604, 209), (604, 45), (572, 45)], RED),
        arrow([(570, 127), (588, 127), (588, 61), (572, 61)], RED),
        turned(622, 127, "not ready: fix it", RED),
        arrow([(70, 385), (34, 385), (34, 361), (68, 361)], TEAL),
        turned(20, 373, "interrupted", TEAL),
    ]
    words = "; ".join(f"{name}: {what}, {command}" for name, what, command in STAGES)
    return svg(640, 424, "From your machine to the ISC", words, parts)


def checkpoint() -> str:
    """One save, in time: what the training does, what a thread does, and what a kill costs."""
    left, right = 118, 706
    lanes = {"training": 66, "thread": 136, "disk": 206}
    parts = [text(8, top + 22, name, size=15, weight=700) for name, top in lanes.items()]
    for number, (start, end) in enumerate(((118, 218), (276, 386), (388, 504), (506, 622))):
        parts += block(start, lanes["training"], end - start - 6, f"batch {120 + number}")
    parts += block(216, lanes["training"], 54, "save()", PALE, 13)
    parts += [text(330, lanes["training"] - 6, "its step waits for the copy", 12, GREY, anchor="middle")]
    parts += block(630, lanes["training"], 70, "poll()", PALE)
    parts += block(276, lanes["thread"], 96, "copy weights", PALE, 13)
    parts += block(376, lanes["thread"], 146, "write, sync, hash", PALE)
    parts += block(526, lanes["thread"], 98, "write hashes", PALE, 13)
    for start, end, name in ((376, 522, "payload"), (526, 624, "manifest"), (630, 700, "link")):
        parts += block(start, lanes["disk"], end - start, name)
    parts += [
        arrow([(243, 100), (243, 153), (274, 153)]),
        arrow([(449, 170), (449, 204)]),
        arrow([(575, 170), (575, 204)]),
        arrow([(665, 100), (665, 204)]),
        text(8, 278, "killed here,", size=13, weight=700),
        text(8, 295, "a run resumes", size=13, weight=700),
        box(left, 264, 500, 34, PAPER, RED),
        text(left + 250, 286, "from the checkpoint before", 14, RED, anchor="middle"),
        box(622, 264, right - 622, 34, PALE, TEAL),
        text(664, 286, "at step 120", 13, TEAL, anchor="middle"),
        text(left, 30, "time", 13, GREY),
        arrow([(left + 36, 26), (right, 26)], GREY),
    ]
    words = "The state is copied, a thread writes it, a manifest makes it count, a link names it"
    return svg(720, 314, "The way of a checkpoint", words, parts)


def block(x: int, y: int, width: int, label: str, fill: str = PAPER, size: int = 14) -> list[str]:
    """A box of one line."""
    return [box(x, y, width, 34, fill), text(x + width // 2, y + 22, label, size, anchor="middle")]


def box(x: int, y: int, width: int, height: int, fill: str, edge: str = INK) -> str:
    """A rectangle with round corners."""
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="{edge}" '
        'stroke-width="1.4"/>'
    )


def text(
    x: int,
    y: int,
    words: str,
    size: int = 14,
    color: str = INK,
    *,
    weight: int = 400,
    anchor: str = "start",
    font: str = SANS,
) -> str:
    """A line of text."""
    return (
        f'<text x="{x}" y="{y}" font-family="{font}" font-size="{size}" font-weight="{weight}" '
        f'fill="{color}" text-anchor="{anchor}">{escape(words)}</text>'
    )


def turned(x: int, y: int, words: str, color: str) -> str:
    """A line of text that runs upwards, its middle at this place."""
    return (
        f'<g transform="translate({x} {y}) rotate(-90)">{text(0, 4, words, 14, color, anchor="middle")}</g>'
    )


def arrow(points: Iterable[tuple[int, int]], color: str = INK) -> str:
    """A line with a head at its end."""
    path = " ".join(f"{x},{y}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6" '
        f'marker-end="url(#{color[1:]})"/>'
    )


def svg(width: int, height: int, title: str, words: str, parts: Iterable[str]) -> str:
    """A picture on white paper, with what it shows in words."""
    heads = [
        f'<marker id="{color[1:]}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
        f'orient="auto"><path d="M0 0 10 5 0 10z" fill="{color}"/></marker>'
        for color in (INK, GREY, TEAL, RED)
    ]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<desc>{escape(words)}</desc>",
        f"<defs>{''.join(heads)}</defs>",
        f'<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>',
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


DIAGRAMS = {"overview.svg": overview, "checkpoint.svg": checkpoint}

if __name__ == "__main__":
    for name, diagram in DIAGRAMS.items():
        (DOCS / name).write_text(diagram())
