"""The components of our own: the run panel, and text that is only ever text. The files in `assets` draw them."""

import html
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from hfjax_demo.csv_text import csv_text

ASSETS = Path(__file__).parent / "assets"

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "show_progress_on": []}
"""Options of a handler of the page: no endpoint for others, no spinner over what it changes.

With `show_progress_on` left out, Gradio's page copies every component that any handler has ever changed, and all that is
inside it, whenever one of them has news: at each token.
"""
AT_ONCE: dict[str, Any] = QUIET | {"queue": False}
"""Options of a handler that waits for nobody's run."""


def panel_value(state: dict[str, Any]) -> str:
    """A `RunView.state()` as the run panel's value: JSON text without a `<`, which would look like markup.

    Text, because Gradio compares, copies and wraps a structure at every update, on both sides, value by value: that took
    more of the machine than some tokens. Gradio 6.31 warns of a `<script>` in any HTML component's value.
    """
    return json.dumps(state, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def run_panel(state: dict[str, Any] | None = None, **props: Any) -> gr.HTML:
    """A component that draws a `RunView.state()`; its value is made by `panel_value`, or None for an empty panel.

    The value never goes through an HTML template: the script writes it with `textContent`, so that prompt and model text
    cannot become markup or code. A function and not a subclass, for which Gradio would write a stub file into the package.

    Args:
        state: the first one.
        props: `gr.HTML`'s other arguments.
    """
    return gr.HTML(
        state and panel_value(state),
        html_template=(ASSETS / "run_panel.html").read_text(encoding="utf-8"),
        js_on_load=(ASSETS / "run_panel.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        **props,
    )


def kv_replay(view: dict[str, Any], **props: Any) -> gr.HTML:
    """A component that replays what `replay_view` gives; its value is made by `panel_value`."""
    return gr.HTML(
        panel_value(view),
        html_template=(ASSETS / "kv_replay.html").read_text(encoding="utf-8"),
        js_on_load=(ASSETS / "kv_replay.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        **props,
    )


def text_html(text: str, tag: str = "p", class_name: str = "") -> str:
    """`text` as an HTML element that shows it and nothing else."""
    return f'<{tag} class="{html.escape(class_name)}">{html.escape(text)}</{tag}>' if text else ""


def csv_link(name: str, headers: list[str], rows: list[list[object]]) -> str:
    """A link that saves a table as a CSV file; the table is in the link, and the server is not asked again."""
    address = f"data:text/csv;charset=utf-8,{quote(csv_text(headers, rows))}"
    file_name = html.escape(f"{name}.csv")
    return f'<a class="csv" download="{file_name}" href="{html.escape(address)}">{file_name}</a>'


def table_html(caption: str, headers: list[str] | tuple[str, ...], rows: Any) -> str:
    """A table of plain values that scrolls inside itself; every cell is escaped."""
    head = "".join(f'<th scope="col">{html.escape(str(header))}</th>' for header in headers)
    cells = (["" if cell is None else html.escape(str(cell)) for cell in row] for row in rows)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells)
    return (
        f'<div class="table-scroll" tabindex="0" role="region" aria-label="{html.escape(caption)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def table_with_csv(
    caption: str, name: str, headers: list[str], rows: list[list[object]], most_rows: int | None = None
) -> str:
    """A table of plain values, of its first `most_rows` rows, and `name`.csv with all of them."""
    return table_html(caption, headers, rows[:most_rows]) + f'<div class="files">{csv_link(name, headers, rows)}</div>'
