"""Fixtures for tests of the real page in a real browser: one app and one Chromium for all of them, a new visitor for each.

A test fails where a page logs an error or asks a foreign host, unless it says which errors it expects:
`@pytest.mark.allow_page_errors("status of 503")`, a regular expression.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Error as PlaywrightError

from tests.browser import pages
from tests.browser.visits import Visits, chromium
from tests.served_app import ServedApp

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "allow_page_errors(pattern): errors on the page that this test expects")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the browser tests on one worker: one app, one browser, one set of compiled programs."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group("browser"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Adds pictures of the open pages and the end of the app's log to the report of a failed test."""
    report = yield
    fixtures = getattr(item, "funcargs", {})
    if report.failed and isinstance(visits := fixtures.get("visits"), Visits):
        with contextlib.suppress(PlaywrightError):  # a page that hangs has no picture; the test's own failure says more
            report.sections.append(("pages", "\n".join(map(str, visits.save_pictures(fixtures["tmp_path"])))))
    if report.failed and isinstance(app := fixtures.get("served_app"), ServedApp):
        report.sections.append(("the app's log", app.log_tail()))
    return report


# Of the package, not of the session: while Playwright runs, no other test of the process can start an event loop.
@pytest.fixture(scope="package")
def served_app():
    """The real app with default settings; its model is loaded and its programs are compiled as tests ask for them.

    Warnings are errors there too: at the end its log must hold none, and no trace of an exception.
    """
    with ServedApp() as app:
        yield app
        noise = [line for line in app.log().splitlines() if re.search(r"Warning|Traceback", line)]
    assert noise == [], app.log()


@pytest.fixture(scope="package")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def visits(request, served_app, browser, tmp_path):
    """Every page this test opens, and what went wrong on any of them."""
    visits = Visits(browser, served_app.url)
    yield visits
    marker = request.node.get_closest_marker("allow_page_errors")
    problems = visits.problems(marker.args[0] if marker else None)
    if problems:
        with contextlib.suppress(PlaywrightError):
            visits.save_pictures(tmp_path)
    visits.close()
    assert not problems, f"pages are in {tmp_path}"


@pytest.fixture
def open_page(visits):
    """`open_page(path="", width=1280, height=900, dark=False, reduced_motion=False, phone=False)`: a new visitor's page."""

    def open_and_wait(path="", **options):
        page = visits.open(path, **options)
        pages.wait_until_ready(page)
        return page

    return open_and_wait


@pytest.fixture
def page(open_page):
    return open_page()


@pytest.fixture
def phone_page(open_page):
    return open_page(width=390, height=844, phone=True)


@pytest.fixture
def page_errors(visits):
    """Errors so far on this test's pages; a test that expects some may look at them and take them out."""
    return visits.page_errors


@pytest.fixture
def foreign_requests(visits):
    """URLs so far that this test's pages asked of foreign hosts."""
    return visits.foreign_requests
