"""The Mesh tab in real Chromium: a size picked is a mesh drawn, planned where it cannot be run, measured where it was."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser import pages
from tests.browser.accessibility import serious_findings


@pytest.fixture
def mesh(open_page):
    """The tab with its first plan drawn: by the page's address alone."""
    page = open_page("?tab=mesh")
    page.locator("#mesh-summary .plan-title").wait_for()
    return page


def pick_size(page, size):
    page.locator("#mesh-size").get_by_role("spinbutton").fill(str(size))
    expect(page.locator("#mesh-summary .plan-title")).to_contain_text(f"over {size} device", timeout=pages.ACTION_WITHIN_MS)


def pick_array(page, name):
    page.locator("#mesh-array input").click()
    page.get_by_role("option", name=name).first.click()


def state(page):
    return page.locator("#mesh-summary .mesh-state")


def test_changing_the_size_redraws_devices_layer_and_array(mesh):
    pick_array(mesh, "keys of a layer")
    expect(mesh.locator("#mesh-cut")).to_contain_text("each device holds all of it")
    mesh.locator("#mesh-quick").get_by_label("3", exact=True).check()
    expect(mesh.locator("#mesh-summary .plan-title")).to_contain_text("over 3 devices")
    assert mesh.locator("#mesh-devices .mesh-device").count() == 3
    expect(mesh.locator("#mesh-cut .cut-part")).to_have_count(3)
    assert "(1, 1, 2048, 64)" in mesh.locator("#mesh-cut .cut-part").first.inner_text()
    assert mesh.locator("#mesh-flow .flow-sum").count() == 2
    pick_size(mesh, 6)
    assert mesh.locator("#mesh-quick input:checked").count() == 0
    assert mesh.locator("#mesh-devices .mesh-device").count() == 6


def test_a_mesh_this_process_does_not_have_is_planned_and_cannot_be_run(mesh):
    pick_size(mesh, 64)
    assert re.search(r"cannot run it: start it with --devices 64", state(mesh).inner_text())
    assert state(mesh).get_attribute("data-kind") == "planned"
    expect(pages.button(mesh, "Run on this mesh")).to_be_disabled()
    assert "measured" not in mesh.locator("#mesh-devices").inner_text()


def test_a_size_that_is_none_is_said_below_the_inputs_and_the_drawing_stays(mesh):
    mesh.locator("#mesh-size").get_by_role("spinbutton").fill("0")
    expect(mesh.locator("#mesh-problem")).to_contain_text("tensor_parallel must be from 1")
    expect(pages.button(mesh, "Run on this mesh")).to_be_disabled()
    assert "over 2 devices" in mesh.locator("#mesh-summary").inner_text()
    pick_size(mesh, 2)
    expect(mesh.locator("#mesh-problem")).to_have_text("")


def test_another_model_is_drawn_by_its_own_rules_and_its_weights_saved(mesh):
    mesh.locator("#mesh-model input").click()
    mesh.get_by_role("option", name="Llama-3.1-8B").click()
    expect(mesh.locator("#mesh-summary .plan-title")).to_contain_text("Llama-3.1-8B over 2")
    mesh.get_by_text("Every weight", exact=True).click()
    with mesh.expect_download() as download:
        mesh.locator("#mesh-weights a.csv").click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0] == "Name,Shape,Split over,Shape on one device,Bytes per device,Why"
    assert len(lines) == 1 + 291


def test_a_run_on_the_mesh_ends_with_measured_numbers_beside_the_planned_ones(mesh):
    mesh.locator("#mesh-context").get_by_role("spinbutton").fill("256")
    expect(mesh.locator("#mesh-summary .plan-title")).to_contain_text(", 256 positions")
    pages.run(mesh, "Run on this mesh")
    mesh.locator("#mesh-verdict .verdict").wait_for()
    assert "Plan and run agree." in mesh.locator("#mesh-verdict").inner_text()
    assert state(mesh).get_attribute("data-kind") == "planned and measured"
    assert mesh.locator('#mesh-devices .mesh-held[data-kind="measured"]').count() == 2
    assert "in the compiled step" in mesh.locator("#mesh-collectives thead").inner_text()
    pick_size(mesh, 3)
    expect(mesh.locator("#mesh-verdict .verdict")).to_have_count(0)
    assert state(mesh).get_attribute("data-kind") == "planned"


@pytest.mark.allow_page_errors("status of 422")  # how Gradio's browser side is told of a field error
def test_generate_refuses_a_size_beyond_the_devices_at_its_field(open_page):
    page = open_page("?tensor_parallel=64")
    field = page.locator("#tensor-parallel")
    expect(field).to_contain_text("This process has")
    expect(field.get_by_role("spinbutton")).to_have_value("64")
    pages.button(page, "Generate").click()
    field.get_by_text("64 were asked for but this process has").first.wait_for()


@pytest.mark.parametrize("look", [{"dark": True}, {"width": 390, "height": 844, "phone": True}], ids=["dark", "390"])
def test_the_drawn_tab_is_accessible_and_fits(open_page, look):
    page = open_page("?tab=mesh", **look)
    page.locator("#mesh-summary .plan-title").wait_for()
    page.wait_for_timeout(700)
    assert pages.sideways_overflow(page) <= 0
    assert serious_findings(page) == []
