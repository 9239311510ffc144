"""The page as a visitor has it: real app, real model, real Chromium."""

import json
import re
import time
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from tests.browser import pages
from tests.browser.accessibility import serious_findings
from tests.browser.visits import Visits
from tests.served_app import ServedApp

SHORT = "?chat=0&max_new_tokens=6&prompt=The%20capital%20of%20France%20is"
LONG = "?chat=0&max_new_tokens=900&prompt=Once%20upon%20a%20time"
HOSTILE = (
    '<img src=x onerror="window.wasFooled=1"> ${window.wasFooled=2} `${window.wasFooled=3}` {{window.wasFooled=4}} '
    "</textarea><script>window.wasFooled=5</script> \u202eabc שלום 😀 $x^2$"
)
DONE = '#run .run[data-phase="done"]'


def status(page, panel="#run"):
    return page.locator(f"{panel} .run-status-text").inner_text()


def text_of(page, panel="#run"):
    return page.locator(f"{panel} .run-output").inner_text()


def number(page, label, panel="#run"):
    return page.locator(f"{panel} .run-numbers > div", has=page.get_by_text(label, exact=True)).locator("dd").inner_text()


def start(page):
    pages.button(page, "Generate").click()
    page.wait_for_function(
        "/decoding [2-9]/.test(document.querySelector('#run .run-status-text').textContent)", timeout=120_000
    )


def wait_until(condition, within_s=20):
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.1)


def is_idle(app):
    return app.healthz().body["num_running"] == 0


def test_before_the_first_run_the_page_shows_a_recorded_one_and_says_so(page):
    assert "recorded run" in page.locator("#run .run-note").inner_text()
    assert "30 layers × 2 × (1, 3, 256, 64)" in page.locator("#run .kv-shape").inner_text()


def test_jit_streams_and_a_second_run_compiles_nothing_and_the_page_says_so(open_page):
    page = open_page(SHORT)
    pages.run(page)
    assert "Paris" in text_of(page)
    first = text_of(page)
    pages.run(page)
    assert "compiled nothing" in status(page)
    assert number(page, "compilations") == "0"
    assert text_of(page) == first
    assert page.locator("#run .kv-iteration").inner_text() == "iter 5: (1, 1), kvcache(9) → (1, 1), kvcache(10)"
    assert page.locator("#run .run-note").is_hidden()
    page.locator("#timeline .js-plotly-plot").wait_for()


def test_every_token_reaches_the_page_and_not_only_what_its_component_is_told(open_page):
    """A component is told once a second, because each time costs the page what ten tokens cost the panel."""
    page = open_page("?chat=0&ignore_eos=1&max_new_tokens=60&prompt=Once%20upon%20a%20time")
    pages.run(page)
    page.evaluate(
        """() => {
          const text = document.querySelector("#run .run-text");
          window.seen = 0;
          const watcher = new MutationObserver(() => { window.seen += 1; });
          watcher.observe(text, { childList: true, characterData: true, subtree: true });
        }"""
    )
    pages.run(page)
    assert page.evaluate("window.seen") > 30


def test_eager_over_a_growing_cache_shows_what_every_step_compiled(open_page):
    page = open_page("?chat=0&mode=eager&cache=dynamic&max_new_tokens=3&prompt=The%20capital%20of%20France%20is")
    pages.run(page)
    assert re.search(r"compiled \d+ operators", status(page))
    assert "30 layers × 2 × (1, 3, 7, 64)" in page.locator("#run .kv-shape").inner_text()
    assert page.locator("#run .kv-iteration").inner_text() == "iter 2: (1, 1), kvcache(6) → (1, 1), kvcache(7)"
    page.get_by_text("What was compiled, and why").click()
    assert page.locator("#run .compiled tbody tr").count() > 5


def test_only_legal_pairs_of_mode_and_cache_can_be_picked(page):
    cache = page.locator("#cache")
    assert cache.get_by_role("radio").count() == 2
    page.locator("#mode").get_by_label("eager").check()
    wait_until(lambda: cache.get_by_label("grows").is_checked())
    cache.get_by_label("none").check()
    page.locator("#mode").get_by_label("jit").check()
    wait_until(lambda: cache.get_by_role("radio").count() == 2)
    assert cache.get_by_label("fixed").is_checked()


def test_stop_ends_the_run_within_a_step_and_keeps_what_came(open_page, served_app):
    page = open_page(LONG)
    start(page)
    pages.button(page, "Stop").click()
    page.wait_for_selector(DONE)
    assert "stopped" in status(page)
    assert len(text_of(page)) > len("Once upon a time")
    assert is_idle(served_app)


def test_closing_the_tab_frees_the_engine(open_page, served_app):
    page = open_page(LONG)
    start(page)
    assert not is_idle(served_app)
    page.context.close()
    wait_until(lambda: is_idle(served_app))


@pytest.mark.allow_page_errors("AbortError|Connection errored out")  # Gradio's own words on a stream that was left
def test_a_reload_in_the_middle_frees_the_engine_and_the_page_works_again(open_page, served_app):
    page = open_page(LONG)
    start(page)
    page.goto(page.url.split("?")[0] + SHORT)
    wait_until(lambda: is_idle(served_app))
    page.get_by_role("tab").first.wait_for()
    pages.run(page)
    assert "Paris" in text_of(page)


def test_two_visitors_at_once_are_served_in_turn_and_the_second_sees_its_place(open_page):
    first, second = open_page(LONG), open_page(SHORT)
    start(first)
    pages.button(second, "Generate").click()
    second.wait_for_function("document.querySelector('#run .run-status-text').textContent.includes('1 run before this one')")
    pages.button(first, "Stop").click()
    second.wait_for_function("document.querySelector('#run .run-text').textContent.includes('Paris')")
    assert "Paris" not in text_of(first)


def test_a_copied_link_restores_every_input_and_runs_nothing(open_page, served_app):
    page = open_page()
    page.locator("#prompt textarea").fill("a & b = 100% #1?\nשלום 😀 ${x}")
    page.locator("#mode").get_by_label("eager").check()
    wait_until(lambda: page.locator("#cache").get_by_label("grows").is_checked())
    page.locator("#cache").get_by_label("fixed").check()
    page.locator("#chat").get_by_role("checkbox").uncheck()
    page.locator("#max-new-tokens").get_by_role("spinbutton").fill("17")
    page.get_by_role("button", name="Sampling").first.click()
    page.get_by_role("spinbutton", name="Seed").first.fill("42")
    page.keyboard.press("Tab")
    pages.button(page, "Copy link").click()
    wait_until(lambda: page.locator("#link").get_by_role("textbox").input_value() != "")
    link = page.locator("#link").get_by_role("textbox").input_value()
    assert page.evaluate("navigator.clipboard.readText()") == link
    other = open_page("?" + link.partition("?")[2] + "&run=1")
    wait_until(lambda: other.locator("#prompt textarea").input_value() == "a & b = 100% #1?\nשלום 😀 ${x}")
    assert other.locator("#mode").get_by_label("eager").is_checked()
    assert other.locator("#cache").get_by_label("fixed").is_checked()
    assert not other.locator("#chat").get_by_role("checkbox").is_checked()
    assert other.locator("#max-new-tokens").get_by_role("spinbutton").input_value() == "17"
    other.get_by_role("button", name="Sampling").first.click()
    wait_until(lambda: other.get_by_role("spinbutton", name="Seed").first.input_value() == "42")
    assert "press Generate" in other.locator("#link-notes").inner_text()
    assert is_idle(served_app)


def test_what_a_link_may_not_say_is_named_and_left_out(open_page):
    page = open_page("?seed=-1&mode=jit&cache=none&prompt=" + quote(HOSTILE))
    notes = page.locator("#link-notes")
    wait_until(lambda: "seed must be from 0" in notes.inner_text())
    assert "jit needs a cache" in notes.inner_text()
    assert page.evaluate("window.wasFooled") is None


def test_hostile_text_is_shown_and_never_run(open_page):
    page = open_page("?chat=0&max_new_tokens=2&prompt=" + quote(HOSTILE))
    pages.run(page)
    assert page.locator("#run .run-prompt").text_content() == HOSTILE
    pages.open_tab(page, "History")
    page.locator("#history-run .run-text").wait_for()
    assert page.locator("#history-run .run-prompt").text_content() == HOSTILE
    assert page.evaluate("window.wasFooled") is None
    assert page.locator("#run img, #history-run img").count() == 0


def test_the_device_line_stays_true_without_events_of_gradio(page):
    """A timer kept it so, and each tick took away what had been said at a field: a visitor had ten seconds to read it."""
    targets = "window.gradio_config.dependencies.flatMap(each => each.targets.map(target => target[1]))"
    assert "tick" not in page.evaluate(targets)
    line = page.locator("#device-line .device-line")
    line.evaluate("line => { line.textContent = 'old'; }")
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    expect(line).to_contain_text("cpu ×")


@pytest.mark.allow_page_errors("status of 422")  # how Gradio's browser side is told of a field error
def test_a_hundred_kilobytes_are_refused_with_the_numbers_and_kept(open_page):
    page = open_page()
    page.locator("#prompt textarea").fill("x" * 100_000)
    pages.button(page, "Generate").click()
    page.get_by_text("at most 32768 characters here but has 100000").first.wait_for()
    assert len(page.locator("#prompt textarea").input_value()) == 100_000


def test_a_model_that_is_not_there_is_an_error_on_the_page_and_what_was_typed_stays(open_page):
    page = open_page("?model=nobody%2Fnothing-here&prompt=hello&max_new_tokens=2")
    pages.run(page)
    error = page.locator("#run .run-error")
    assert error.is_visible()
    assert "nobody/nothing-here" in error.inner_text()
    assert page.locator("#prompt textarea").input_value() == "hello"


def test_compare_streams_both_and_says_that_the_tokens_are_identical(open_page):
    page = open_page("?tab=compare")
    page.locator("#compare-prompt textarea").fill("The capital of France is")
    page.locator("#compare-max-new-tokens").get_by_role("spinbutton").fill("3")
    page.keyboard.press("Tab")
    pages.run(page, "Compare")
    verdict = page.locator("#verdict .verdict")
    verdict.wait_for()
    assert "The tokens are identical: all 3." in verdict.inner_text()
    assert "faster" in verdict.inner_text()
    assert text_of(page, "#left-run") == text_of(page, "#right-run")
    page.locator("#race .js-plotly-plot").wait_for()


def test_compare_both_takes_the_prompt_along_and_a_second_press_starts_no_second_comparison(open_page):
    """Each button had a handler of its own: pressed one after the other, both streamed into the same two panels."""
    page = open_page(SHORT.replace("max_new_tokens=6", "max_new_tokens=3"))
    pages.button(page, "Compare both").click()
    page.get_by_role("tab", name="Compare", exact=True, selected=True).wait_for()
    expect(page.locator("#left-run .run-prompt")).to_have_text("The capital of France is")
    pages.button(page, "Compare").click()
    page.locator("#verdict .verdict").wait_for(timeout=pages.RUN_WITHIN_MS)
    assert text_of(page, "#left-run").startswith("The capital of France is")
    pages.open_tab(page, "History")
    runs = page.locator("#runs").get_by_role("radio")
    expect(runs).to_have_count(2)
    page.wait_for_timeout(500)
    expect(runs).to_have_count(2)


def test_history_exports_a_run_that_another_visitor_imports_and_sees_the_same(open_page, tmp_path):
    page = open_page(SHORT)
    pages.run(page)
    pages.open_tab(page, "History")
    page.locator("#history-run .run-text").wait_for()
    with page.expect_download() as download:
        pages.button(page, "Export JSON").click()
    path = tmp_path / "run.json"
    download.value.save_as(path)
    assert json.loads(path.read_text())["schema"] == "hfjax_demo.run.v1"
    other = open_page("?tab=history")
    other.locator("#import input[type=file], input[type=file]").first.set_input_files(path)
    other.locator("#history-run .run-text").wait_for()
    for selector in (".run-text", ".run-numbers", ".kv-shape", ".kv-iteration", ".run-status-text"):
        assert other.locator(f"#history-run {selector}").text_content() == page.locator(f"#run {selector}").text_content()


def test_the_embedded_view_has_no_header(open_page):
    page = open_page("?embed=1")
    page.locator(".page-head").wait_for(state="hidden")
    assert pages.button(page, "Generate").is_visible()


@pytest.mark.parametrize("tab", pages.TABS)
def test_nothing_scrolls_sideways_on_a_phone(phone_page, tab):
    pages.open_tab(phone_page, tab)
    phone_page.wait_for_timeout(500)
    assert pages.sideways_overflow(phone_page) <= 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("tab", pages.TABS)
def test_axe_finds_nothing_serious(open_page, tab, dark):
    page = open_page(dark=dark, reduced_motion=True)  # a colour on its way to another has a contrast of its own
    pages.open_tab(page, tab)
    page.wait_for_timeout(700)
    if tab == "Mesh":
        page.locator("#mesh-summary .mesh-state").wait_for()  # the first plan, and with it the button
        page.wait_for_timeout(300)
    if tab == "Generate":
        page.locator("#timeline .js-plotly-plot").wait_for()  # until then Gradio shows an empty box of its own
    assert serious_findings(page) == []


def test_the_keyboard_alone_starts_a_run(open_page):
    page = open_page(SHORT)
    page.locator("#prompt textarea").focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent").strip() == "Generate":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector(DONE)
    page.wait_for_function("document.querySelector('#run .run-text').textContent.includes('Paris')")


def test_reduced_motion_is_respected(open_page):
    page = open_page(reduced_motion=True)
    moving = "[...document.querySelectorAll('*')].filter(e => parseFloat(getComputedStyle(e).transitionDuration) > 0).length"
    wait_until(lambda: page.evaluate(moving) == 0)


@pytest.mark.allow_page_errors("status of 503|Failed to load resource")
def test_rendered_on_the_server_and_with_a_full_queue(browser):
    """One app with both: SSR as on a Space, and room for one who waits."""
    with ServedApp(environment={"GRADIO_SSR_MODE": "True", "HFJAX_DEMO_MAX_WAITING": "1"}) as app:
        visits = Visits(browser, app.url)
        first, second, third = (visits.open(path) for path in (LONG, SHORT, SHORT))
        start(first)
        pages.button(second, "Generate").click()
        wait_until(lambda: app.healthz().body["num_waiting"] == 1)
        pages.button(third, "Generate").click()
        third.get_by_text("At most 1 requests may wait").first.wait_for()
        pages.button(first, "Stop").click()
        second.wait_for_function("document.querySelector('#run .run-text').textContent.includes('Paris')")
        visits.close()
