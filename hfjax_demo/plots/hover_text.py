"""Text for hover labels, made safe: what a model writes, and what an imported record says, is only ever text.

Knows nothing of figures.
"""

import html
import textwrap

from hfjax_demo.events import CompiledProgram, StepEvent

MAX_TOKEN_CHARS = 32
MAX_NAME_CHARS = 48
MAX_REASON_CHARS = 160
MAX_PROGRAMS = 3
LINE_CHARS = 38
"""So wide that a label still fits a phone."""

VISIBLE = {"\n": "↵", "\r": "␍", "\t": "⇥"}
JOINERS = "\u200c\u200d"
"""Zero-width, but part of emoji and of several scripts."""


def shown_text(text: str, most: int = MAX_TOKEN_CHARS) -> str:
    """`text` on one line of at most `most` characters: line ends as signs, other invisible characters as their code."""
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(
        char if char.isprintable() or char in JOINERS else VISIBLE.get(char, f"\\u{{{ord(char):x}}}") for char in cut
    )


def as_markup(text: str) -> str:
    """`text` as plotly markup that draws it as it is.

    plotly.js reads a small HTML, and LaTeX between dollar signs where MathJax is loaded.
    """
    return html.escape(text, quote=False).replace("$", "&#36;")


def quoted_token(step: StepEvent) -> str:
    """A step's token in quotes; its id where it has no text of its own. Plain text, not markup."""
    return f"“{shown_text(step.text)}”" if step.text else f"token id {step.token_id}, no text of its own"


def milliseconds(seconds: float) -> str:
    """Seconds as "6,640.8 ms"."""
    return f"{seconds * 1000:,.1f} ms"


def compiled_lines(step: StepEvent) -> list[str]:
    """Markup lines that say what a step compiled and why, slowest first, at most `MAX_PROGRAMS` of them."""
    if not step.compiled:
        return ["compiled nothing"]
    noun = "compilation" if step.num_compiles == 1 else "compilations"
    lines = [f"{step.num_compiles:,} {noun}" if step.num_compiles else "traced, compiled nothing"]
    programs = [program for program in step.compiled if program.count] or list(step.compiled)
    for program in programs[:MAX_PROGRAMS]:
        lines.append(f"· {as_markup(_program_words(program))}")
        reason = textwrap.wrap(shown_text(program.reason, MAX_REASON_CHARS), LINE_CHARS)
        lines += [f"&nbsp;&nbsp;{as_markup(line)}" for line in reason]
    if len(programs) > MAX_PROGRAMS:
        lines.append(f"… and {len(programs) - MAX_PROGRAMS:,} more")
    return lines


def _program_words(program: CompiledProgram) -> str:
    times = f" ×{program.count:,}" if program.count > 1 else ""
    spent_s = program.trace_s + program.compile_s
    return f"{shown_text(program.name, MAX_NAME_CHARS)}{times}, {milliseconds(spent_s)}"
