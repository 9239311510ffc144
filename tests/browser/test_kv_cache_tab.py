"""The KV cache tab in real Chromium: a run replayed, two side by side, and plans for models that are not here."""

import json

import pytest
from playwright.sync_api import expect

from tests.browser import pages
from tests.browser.accessibility import serious_findings
from tests.test_given_config import LLAMA

SHORT = "?chat=0&max_new_tokens=5&prompt=The%20capital%20of%20France%20is"


@pytest.fixture
def replay(open_page):
    """The tab as a newcomer finds it: two recorded runs of one prompt."""
    page = open_page("?tab=kv-cache")
    page.locator("#replay .replay-run").nth(1).wait_for()
    return page


@pytest.fixture
def plan(open_page):
    """The Plan section with its first plan made."""
    page = open_page("?tab=kv-cache")
    open_plan(page)
    return page


def open_plan(page):
    page.get_by_role("tab", name="Plan", exact=True).click()
    page.locator("#plan-summary .plan-title").wait_for()
    page.locator("#plan-curves .js-plotly-plot").wait_for()


def open_norms(page):
    page.get_by_role("tab", name="What is in it").click()
    page.locator("#norms .js-plotly-plot").wait_for()


def iterations(page):
    return page.locator("#replay .replay-iteration").all_inner_texts()


def step_words(page):
    return page.locator("#replay .replay-step").inner_text()


def plan_again(page):
    """Presses Plan and returns when the answer is on the page."""
    before = page.locator("#plan-summary").inner_text()
    pages.button(page, "Plan").click()
    page.wait_for_function("before => document.querySelector('#plan-summary').innerText !== before", arg=before)


def test_the_slider_moves_both_runs_to_the_same_step(replay):
    slider = replay.get_by_role("slider", name="Step")
    slider.fill("3")
    assert step_words(replay).startswith("step 3 of ")
    growing, fixed = iterations(replay)
    assert growing == fixed, "the same positions are filled: what differs is what is allocated"
    shapes = replay.locator("#replay .replay-shape").all_inner_texts()
    slider.press("ArrowRight")
    assert step_words(replay).startswith("step 4 of ")
    after = replay.locator("#replay .replay-shape").all_inner_texts()
    assert after[0] != shapes[0], "the growing cache has another shape"
    assert after[1] == shapes[1], "the fixed one kept its own"
    compiled = replay.locator("#replay .replay-compiled").all_inner_texts()
    assert not compiled[0].startswith("compiled here: nothing")
    assert compiled[1].startswith("compiled here: nothing")
    assert "decode steps compiled" in replay.locator("#replay .replay-verdict").inner_text()


def test_play_goes_on_to_the_end_and_pauses(replay):
    replay.get_by_role("slider", name="Step").fill("0")
    play = replay.locator("#replay .replay-play")
    play.click()
    assert play.inner_text() == "Pause"
    replay.wait_for_function("document.querySelector('#replay .replay-step').textContent.startsWith('step 2 ')")
    play.click()
    at = step_words(replay)
    replay.wait_for_timeout(600)
    assert (play.inner_text(), step_words(replay)) == ("Play", at)


def test_every_layer_is_in_a_table_beside_the_picture(replay):
    replay.get_by_text("Every layer at this step").first.click()
    assert replay.locator("#replay .replay-layers").first.locator("tbody tr").count() == 30
    assert replay.locator("#replay .replay-grid").first.locator(".replay-row").count() == 30


def test_after_two_runs_of_one_prompt_both_are_replayed_side_by_side(open_page):
    page = open_page("?tab=compare")
    page.locator("#compare-prompt textarea").fill("The capital of France is")
    page.locator("#compare-max-new-tokens").get_by_role("spinbutton").fill("3")
    page.keyboard.press("Tab")
    pages.run(page, "Compare")
    page.locator("#verdict .verdict").wait_for()
    pages.open_tab(page, "KV cache")
    expect(page.locator("#replay .replay-note")).to_have_text(["run 1", "run 2"], timeout=pages.ACTION_WITHIN_MS)
    assert "growing cache" in page.locator("#replay .replay-title").first.inner_text()
    assert step_words(page) == "step 2 of 2"
    page.get_by_text("Every step as a table").click()
    with page.expect_download() as download:
        page.locator("#replay-table a.csv").first.click()
    assert download.value.suggested_filename == "cache-steps-run-1.csv"
    lines = download.value.path().read_text().splitlines()
    assert lines[0].startswith("Step,Token,Input shape")
    assert len(lines) == 1 + 3


def test_one_run_can_be_picked_alone(replay):
    replay.locator("#replay-beside input").click()
    replay.get_by_role("option", name="nothing").click()
    replay.wait_for_function("document.querySelectorAll('#replay .replay-run').length === 1")
    assert replay.locator("#replay .replay-verdict").inner_text() == ""


def test_the_pointer_names_the_token_whose_keys_and_values_lie_there(replay):
    grid = replay.locator("#replay .replay-grid")
    grid.first.hover(position={"x": 0, "y": 3})
    assert replay.locator("#replay .replay-tip").first.inner_text() == "layer 0, position 0: “<|im_start|>”, prompt"
    box = grid.nth(1).bounding_box()
    grid.nth(1).hover(position={"x": box["width"] - 3, "y": 3})
    assert replay.locator("#replay .replay-tip").nth(1).inner_text() == "layer 0, position 255: free, allocated already"


def test_the_norms_are_drawn_for_every_layer_or_one_and_hovering_names_the_token(replay):
    open_norms(replay)
    area = replay.locator("#norms .nsewdrag").first
    area.hover(position={"x": 4, "y": 4})
    label = replay.locator("#norms .hoverlayer .hovertext")
    label.wait_for()
    assert "layer 0, head 0" in label.text_content()
    assert "<|im_start|>" in label.text_content()
    replay.locator("#norms-part").get_by_label("values").check()
    replay.locator("#norms .js-plotly-plot", has_text="value norms").wait_for()
    replay.locator("#norms-layer input").click()
    replay.get_by_role("option", name="layer 7", exact=True).click()
    replay.get_by_text("Each head as a table").click()
    replay.wait_for_function("document.querySelectorAll('#norms-table tbody tr').length === 3")
    with replay.expect_download() as download:
        replay.locator("#norms-table a.csv", has_text="cells").click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0] == "Layer,Head,First position,Last position,Token,Key norm,Value norm"
    assert len(lines) == 1 + 3 * 79


def test_the_norms_follow_the_run_that_is_picked(replay):
    open_norms(replay)
    assert replay.locator("#norms-of").inner_text().startswith("recorded eager")
    replay.get_by_role("tab", name="Replay", exact=True).click()
    replay.locator("#replay-run input").click()
    replay.get_by_role("option", name="recorded jit").click()
    open_norms(replay)
    replay.wait_for_function("document.querySelector('#norms-of').innerText.startsWith('recorded jit')")


def test_the_first_plan_shows_formula_curves_and_what_fits(plan):
    formula = plan.locator("#plan-formula .formula-numbers").first.inner_text()
    assert formula.startswith("2 × 30 × 3 × ")
    factor = plan.locator("#plan-formula abbr").nth(2)
    assert "num_key_value_heads" in factor.get_attribute("title")
    assert plan.locator("#plan-fits tbody tr").count() >= 12
    assert plan.locator("#plan-curves .legendtext").count() >= 3
    plan.locator("#plan-detail").get_by_label("Llama-2-7B").check()
    plan.wait_for_function("document.querySelector('#plan-formula').innerText.includes('2 × 32 × 32 × ')")


def test_a_pasted_config_is_planned_and_its_tables_saved(plan):
    plan.get_by_text("Or paste a config.json").click()
    plan.locator("#plan-config textarea").fill(json.dumps(LLAMA))
    plan.locator("#plan-context").get_by_role("spinbutton").fill("100")
    plan.keyboard.press("Tab")
    plan_again(plan)
    assert "2 × 2 × 2 × 100 × 16 × 2 × 1 = 25,600 bytes" in plan.locator("#plan-formula").inner_text()
    for name in ("layers", "accelerators", "formula", "curve", "weights"):
        with plan.expect_download() as download:
            plan.locator("#plan-files a.csv", has_text=f"{name}.csv").click()
        assert len(download.value.path().read_text().splitlines()) > 1


@pytest.mark.allow_page_errors("status of 422")  # how Gradio's browser side is told of a field error
def test_a_bad_config_or_number_is_said_at_its_field_and_nothing_is_lost(plan):
    before = plan.locator("#plan-summary").inner_text()
    plan.get_by_text("Or paste a config.json").click()
    longest = plan.locator("#plan-config textarea").get_attribute("maxlength")
    assert longest == "1000000", "a paste of 10 MB would stop the browser for minutes"
    plan.locator("#plan-config textarea").fill('{"model_type": "bert", "architectures": ["BertModel"]}')
    pages.button(plan, "Plan").click()
    plan.locator("#plan-config").get_by_text("causal").first.wait_for()
    plan.locator("#plan-config textarea").fill("")
    plan.locator("#plan-batch").get_by_role("spinbutton").fill("-3")
    plan.keyboard.press("Tab")
    pages.button(plan, "Plan").click()
    plan.locator("#plan-batch").get_by_text("-3").first.wait_for()
    assert plan.locator("#plan-summary").inner_text() == before


@pytest.mark.parametrize("open_section", [open_norms, open_plan])
def test_no_section_scrolls_sideways_on_a_phone(phone_page, open_section):
    pages.open_tab(phone_page, "KV cache")
    open_section(phone_page)
    assert pages.sideways_overflow(phone_page) <= 0


@pytest.mark.parametrize("open_section", [open_norms, open_plan])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious_in_any_section(open_page, open_section, dark):
    page = open_page("?tab=kv-cache", dark=dark)
    open_section(page)
    page.wait_for_timeout(700)
    assert serious_findings(page) == []
