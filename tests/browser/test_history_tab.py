"""The History tab in real Chromium: what it shows of runs that end, and are imported, while it is looked at."""

import pytest
from playwright.sync_api import expect

from hfjax_demo.ui.components import ASSETS
from tests.browser import pages

LONG = "?chat=0&max_new_tokens=900&prompt=Once%20upon%20a%20time"
NAMES = ["run 2", "run 1"]


def test_a_run_that_ends_while_the_tab_is_open_is_shown(open_page):
    """The tab was opened before the run was kept, and opening it had nothing to pick: the list came, and nothing on view."""
    page = open_page(LONG)
    pages.button(page, "Generate").click()
    page.wait_for_function("/decoding [2-9]/.test(document.querySelector('#run .run-status-text').textContent)")
    pages.open_tab(page, "History")
    expect(page.locator("#history-hint")).to_contain_text("No run in this visit yet")
    page.evaluate("document.querySelector('#stop').click()")  # still there, on the tab that is not open
    expect(page.locator("#history-run .run-status-text")).to_contain_text("stopped", timeout=pages.ACTION_WITHIN_MS)
    expect(page.locator("#runs").get_by_role("radio")).to_be_checked()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((NAMES, None, "", "", False), [None, "", "", False]),
        ((NAMES, None, "", "", True), ["run 2", "", "", True]),
        (([], None, "", "", True), [None, "", "", True]),
        ((NAMES, "run 1", "run 2", "", True), ["run 1", "run 2", "", True]),
        ((NAMES, "run 9", "run 8", "", True), ["run 2", "", "", True]),
        ((NAMES, "run 1", "", "run 2", True), ["run 2", "", "", True]),
        ((NAMES, "run 1", "", "imported 3", True), ["run 1", "", "imported 3", True]),
    ],
    ids=[
        "nothing before the tab was opened",
        "the newest when it was",
        "nothing where there is none",
        "what was picked stays",
        "what is gone goes",
        "what was imported",
        "what was imported is not in the list yet",
    ],
)
def test_the_run_on_view_is(page, before, after):
    script = (ASSETS / "pick_run.js").read_text(encoding="utf-8")
    assert page.evaluate(f"values => ({script})(...values)", list(before)) == after
