"""The browser tests' own senses: a fault planted on the page is noticed."""

import os

import pytest

from tests.browser.accessibility import serious_findings
from tests.browser.pages import TABS, open_tab, sideways_overflow

# Nothing listens there and no name is looked up: the browser refuses to resolve any.
FOREIGN = "https://fonts.example/font.css"


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="there is one process")
def test_the_browser_tests_share_one_worker(request):
    """pytest 9.2 made pytest-xdist 3.8 ignore groups: each worker started an app of its own, and nobody was told."""
    assert request.node.nodeid.endswith("@browser")


@pytest.mark.allow_page_errors("ERR_NAME_NOT_RESOLVED")
def test_a_request_to_a_foreign_host_is_noticed(page, foreign_requests):
    page.evaluate("url => fetch(url).catch(() => null)", FOREIGN)
    assert foreign_requests == [FOREIGN]
    foreign_requests.clear()


def test_a_web_socket_to_a_foreign_host_is_noticed(page, foreign_requests, page_errors):
    with page.expect_event("websocket"):
        page.evaluate("new WebSocket('wss://sockets.example/')")
    assert foreign_requests == ["wss://sockets.example/"]
    foreign_requests.clear()
    page.wait_for_timeout(200)
    page_errors.clear()


def test_errors_on_the_page_are_noticed(page, page_errors):
    page.evaluate("console.error('a planted line'); console.info('no error')")
    with page.context.expect_event("weberror"):
        page.evaluate("setTimeout(() => { throw new Error('a planted exception') })")
    assert [error.partition(" (")[0] for error in page_errors] == [
        "console: a planted line",
        "uncaught: a planted exception",
    ]
    page_errors.clear()


def test_an_expected_error_is_no_problem_and_any_other_is(visits):
    visits.page_errors.append("console: status of 503")
    assert visits.problems("status of 503") == []
    assert visits.problems("status of 404") == ["console: status of 503"] == visits.problems()
    visits.page_errors.clear()


def test_a_serious_finding_is_told_in_one_line_and_can_be_allowed(page):
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img id=planted src=\"data:,\">')")
    findings = [line for line in serious_findings(page) if "#planted" in line]
    assert len(findings) == 1
    assert findings[0].startswith("critical: image-alt at #planted: ")
    assert "\n" not in findings[0]
    assert not any("#planted" in line for line in serious_findings(page, allowed={"#planted": "planted"}))


def test_what_is_too_wide_for_a_phone_is_measured(phone_page):
    before = sideways_overflow(phone_page)
    phone_page.evaluate("document.body.insertAdjacentHTML('beforeend', '<div style=\"width: 500px; height: 1px\"></div>')")
    assert sideways_overflow(phone_page) >= before + 100


def test_the_page_follows_the_colours_the_system_asks_for(open_page):
    assert not open_page().evaluate("document.body.classList.contains('dark')")
    assert open_page(dark=True).evaluate("document.body.classList.contains('dark')")


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_can_be_opened_on_a_narrow_phone(open_page, tab):
    page = open_page(width=200, height=600, phone=True)
    open_tab(page, tab)
    assert page.get_by_role("tab", name=tab, exact=True).get_attribute("aria-selected") == "true"
