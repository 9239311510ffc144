"""Pictures of every tab, light, dark and as wide as a phone, from real runs: `python -m tests.browser.screenshots`.

The app compiles with its own settings here, so that the numbers in the pictures are those a visitor sees.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.browser import pages
from tests.browser.visits import Visits, chromium
from tests.served_app import ServedApp

DEFAULT_FOLDER = Path(__file__).parent / "screenshots"
SETTLED_AFTER_MS = 3_000
LOOKS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"dark": True},
    "390": {"width": 390, "height": 844, "phone": True},
}


def main(arguments: list[str] | None = None) -> int:
    """Takes the pictures; 1 where a page logged an error or asked a foreign host meanwhile."""
    parser = argparse.ArgumentParser(prog="python -m tests.browser.screenshots", description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="folder for the pictures")
    folder = parser.parse_args(arguments).out
    folder.mkdir(parents=True, exist_ok=True)
    with ServedApp() as app, chromium() as browser:
        visits = Visits(browser, app.url)
        for look, options in LOOKS.items():
            for path in take_tabs(visits.open(**options), folder, look):
                sys.stdout.write(f"{path}\n")
        problems = visits.problems()
        visits.close()
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0


def take_tabs(page: Page, folder: Path, look: str) -> list[Path]:
    """Makes a real run and a real comparison, and a picture of each tab, and of its sections, as they left it."""
    pictures = []
    for tab in pages.TABS:
        pages.open_tab(page, tab)
        if tab in pages.RUN_BUTTONS:
            pages.run(page, pages.RUN_BUTTONS[tab])
        if tab == "Mesh":
            page.locator("#mesh-verdict .verdict").wait_for()
        if tab == "History":
            pages.wait_for_drawn_record(page)
        pictures.append(take(page, folder / f"{tab.lower().replace(' ', '-')}-{look}.png"))
        for section in pages.SECTIONS.get(tab, ()):
            page.get_by_role("tab", name=section, exact=True).click()
            pictures.append(take(page, folder / f"{section.lower().replace(' ', '-')}-{look}.png"))
    return pictures


def take(page: Page, path: Path) -> Path:
    """A picture of the whole page once nothing comes from the server any more and the plots are drawn."""
    page.wait_for_timeout(SETTLED_AFTER_MS)
    page.screenshot(path=path, full_page=True, animations="disabled")
    return path


if __name__ == "__main__":
    raise SystemExit(main())
