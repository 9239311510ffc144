"""What axe-core finds on a page, as lines to read. axe's script comes with its package: nothing is fetched."""

from collections.abc import Mapping

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

IMPACTS = ("serious", "critical")
# Violations alone are asked for in full: nodes that passed would be thousands.
OPTIONS = {"resultTypes": ["violations"]}

NOT_OURS: Mapping[str, str] = {}
"""Selector, as axe prints it -> why it is Gradio's own and cannot be mended by our styles."""


def serious_findings(page: Page, allowed: Mapping[str, str] = NOT_OURS) -> list[str]:
    """Serious and critical violations on what the page shows now, but for the selectors in `allowed`."""
    violations = Axe().run(page, options=OPTIONS).response["violations"]
    return [
        f"{violation['impact']}: {violation['id']} at {selector}: {_reason(node)} {_shortened(node['html'])}"
        for violation in violations
        if violation["impact"] in IMPACTS
        for node in violation["nodes"]
        if (selector := _selector(node["target"])) not in allowed
    ]


def _selector(target: list[str | list[str]]) -> str:
    """One string; inside frames and shadow roots axe gives a list of selectors, outermost first."""
    return " ".join(part if isinstance(part, str) else " ".join(part) for part in target)


def _reason(node: dict) -> str:
    checks = node["any"] + node["all"] + node["none"]
    return "; ".join(check["message"] for check in checks)


def _shortened(html: str) -> str:
    line = " ".join(html.split())
    return line if len(line) <= 160 else line[:159] + "…"
