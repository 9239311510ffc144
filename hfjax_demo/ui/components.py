"""The components of our own: the run panel, and text that is only ever text. The files in `assets` draw them."""

import html
from pathlib import Path
from typing import Any

import gradio as gr

ASSETS = Path(__file__).parent / "assets"


def run_panel(value: dict[str, Any] | None = None, **props: Any) -> gr.HTML:
    """A component that draws a `RunView.state()`; its value is that dict, or None for an empty panel.

    The value never goes through an HTML template: the script writes it with `textContent`, so that prompt and model text
    cannot become markup or code. A function and not a subclass, for which Gradio would write a stub file into the package.

    Args:
        value: the first state.
        props: `gr.HTML`'s other arguments.
    """
    return gr.HTML(
        value,
        html_template=(ASSETS / "run_panel.html").read_text(encoding="utf-8"),
        js_on_load=(ASSETS / "run_panel.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        **props,
    )


def text_html(text: str, tag: str = "p", class_name: str = "") -> str:
    """`text` as an HTML element that shows it and nothing else."""
    return f'<{tag} class="{html.escape(class_name)}">{html.escape(text)}</{tag}>' if text else ""


def table_html(caption: str, headers: list[str] | tuple[str, ...], rows: Any) -> str:
    """A table of plain values that scrolls inside itself; every cell is escaped."""
    head = "".join(f'<th scope="col">{html.escape(str(header))}</th>' for header in headers)
    cells = (["" if cell is None else html.escape(str(cell)) for cell in row] for row in rows)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells)
    return (
        f'<div class="table-scroll" tabindex="0" role="region" aria-label="{html.escape(caption)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
