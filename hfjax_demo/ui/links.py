"""Links between pages and requests: the browser-side writer, and what a link puts into the inputs.

The encoding itself is `permalink`; this module ties it to the page.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import fields

from hfjax_demo.permalink import ALWAYS_WRITTEN, LinkInputs
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.ui.components import ASSETS


def link_base(environ: Mapping[str, str] = os.environ) -> str:
    """Where links lead: a Space's page on the Hub, whose address bar visitors see; else "", the page's own address."""
    space_id = environ.get("SPACE_ID", "")
    return f"https://huggingface.co/spaces/{space_id}" if space_id else ""


def link_script(base: str) -> str:
    """The JavaScript that turns the inputs' values, in the order of `GenerationRequest`'s fields, into a link."""
    facts = {
        "fields": [field.name for field in fields(GenerationRequest)],
        "always": list(ALWAYS_WRITTEN),
        "defaults": {field.name: field.default for field in fields(GenerationRequest) if field.name not in ALWAYS_WRITTEN},
        "base": base,
    }
    return (ASSETS / "copy_link.js").read_text(encoding="utf-8").replace("__LINK__", json.dumps(facts))


def link_notes(link: LinkInputs) -> list[str]:
    """What a visitor should know about the link that was opened: what was left out, and that a click starts the run."""
    notes = [f"From the link, left out: {problem}" for problem in link.problems]
    if link.wants_run:
        notes.append("This link asks for a run: look at the inputs, then press Generate.")
    return notes
