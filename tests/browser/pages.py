"""Where things are on the page, by what a visitor sees: names of tabs and buttons. Every test finds them through here."""

from playwright.sync_api import Locator, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from tests.browser.visits import ACTION_WITHIN_MS

TABS = ("Generate", "Compare", "KV cache", "Mesh", "History")
SECTIONS = {"KV cache": ("What is in it", "Plan")}
"""Tab -> the sections in it that lie behind the first."""
RUN_BUTTONS = {"Generate": "Generate", "Compare": "Compare", "Mesh": "Run on this mesh"}
"""Tab -> the button on it that starts its runs."""
RUN_WITHIN_MS = 300_000

LAST_PANELS = {"Generate": "#run .run", "Compare": "#right-run .run", "Run on this mesh": "#mesh-run .run"}
"""Button -> the panel that says last how what it started has ended; of a comparison, the right one's."""

# Drawn anew with every update, so the mark is gone with the first; no run that goes on is in one of these phases. Not by
# the Stop button: a run that is shorter than a round trip is over before the page could be told to turn it on.
MARK = "panel => { panel.dataset.phase = 'asked'; }"
IS_OVER = "panel => ['done', 'failed'].includes(document.querySelector(panel).dataset.phase)"


def wait_until_ready(page: Page) -> None:
    """Returns when what the page's address says is in the inputs, and with it the buttons that start runs can be pressed."""
    # A tab that is not open has no buttons yet.
    starts = "[...document.querySelectorAll('#generate, #compare')]"
    least = 0 if "tab=" in page.url else 1
    page.wait_for_function(f"{starts}.length >= {least} && {starts}.every(b => !b.disabled)", timeout=ACTION_WITHIN_MS)


def open_tab(page: Page, name: str) -> None:
    """Opens a tab by its visible name; on a narrow page Gradio keeps some of them in a menu."""
    tab = page.get_by_role("tab", name=name, exact=True)
    # Gradio draws every tab, measures them, and then moves what does not fit into the menu: a tab just seen may be gone.
    for within_ms in (2_000, 5_000, ACTION_WITHIN_MS):
        try:
            if tab.is_visible():
                tab.click(timeout=within_ms)
            else:
                button(page, "More tabs").click(timeout=within_ms)
                page.locator(".overflow-dropdown").get_by_role("button", name=name, exact=True).click(timeout=within_ms)
            page.get_by_role("tab", name=name, exact=True, selected=True).wait_for(timeout=within_ms)
            return
        except PlaywrightTimeoutError:
            if within_ms == ACTION_WITHIN_MS:
                raise


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def run(page: Page, button_name: str = "Generate") -> None:
    """Presses the button on the open tab and returns when what it started is over, whether done, stopped or failed."""
    panel = LAST_PANELS[button_name]
    page.locator(panel).evaluate(MARK)
    button(page, button_name).click()
    page.wait_for_function(IS_OVER, arg=panel, timeout=RUN_WITHIN_MS)


def wait_for_drawn_record(page: Page) -> None:
    """Returns when the History tab, open already, has drawn the run that is selected there."""
    expect(button(page, "Export JSON")).to_be_enabled(timeout=ACTION_WITHIN_MS)


def sideways_overflow(page: Page) -> int:
    """CSS pixels by which the page is wider than its window."""
    width = page.viewport_size["width"]
    return page.evaluate("() => document.documentElement.scrollWidth") - width
