"""Importing is free of side effects and of heavy packages, proved in fresh processes."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchax", "jax", "transformers", "gradio", "plotly", "numpy")


def loaded_after(code):
    report = f"{code}; import sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", report], check=True, capture_output=True, text=True).stdout.split()


LIGHT = (
    *("cli", "errors", "settings", "catalog", "requests", "events", "plain_json", "kv_shapes", "buckets", "inference"),
    *(
        "accelerators",
        "cache_formula",
        "cache_norms",
        "cache_plan",
        "config_text",
        "csv_text",
        "known_configs",
        "model_plan",
    ),
    *("plan_tables", "plan_text", "planning"),
    *("limits", "permalink", "comparison", "break_even", "ui", "ui.run_view", "ui.run_history"),
)


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module):
    assert loaded_after(f"import hfjax_demo.{module}") == []


def test_the_page_is_built_from_events_alone():
    """The engine is handed in: nothing the page imports knows torch, JAX or Transformers."""
    assert not set(loaded_after("import hfjax_demo.ui.serve")) & {"torch", "torchax", "jax", "transformers"}


def test_this_test_can_fail():
    assert "numpy" in loaded_after("import numpy")


def test_importing_the_engine_does_not_start_jax():
    code = "import hfjax_demo.inference.engine, jax._src.xla_bridge as bridge; print(bridge.backends_are_initialized())"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.split() == ["False"]
