"""The app's process in tests: it is waited for, its failure is told, and nothing of it is left behind."""

import os
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests import served_app
from tests.served_app import ServedApp

SERVER = """
import argparse, http.server, json, os, signal, subprocess, sys
parser = argparse.ArgumentParser()
for flag in ("--host", "--port", "--status", "--body"):
    parser.add_argument(flag)
flags = parser.parse_args()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (flags.body or json.dumps({"environment": dict(os.environ), "child": child.pid})).encode()
        self.send_response(int(flags.status or 200))
        self.end_headers()
        self.wfile.write(body)

child = subprocess.Popen(["sleep", "600"])
signal.signal(signal.SIGTERM, signal.SIG_IGN if flags.body == "stubborn" else lambda *_: sys.exit(0))
print("listening on", flags.port)
http.server.HTTPServer((flags.host, int(flags.port)), Handler).serve_forever()
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "stand_in.py"
    path.write_text(SERVER)
    return path


def is_running(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_the_app_is_ready_inside_the_block_and_gone_after_it(script):
    with ServedApp(script=script) as app:
        health = app.healthz()
        assert health.is_good
        assert urllib.request.urlopen(app.url, timeout=5).status == 200
    assert app.healthz().status == 0
    assert app.process.returncode == 0
    assert "listening on" in app.log()
    assert not is_running(health.body["child"]), "children of the app, such as Gradio's Node server, end with it"


def test_an_app_that_ends_at_once_is_reported_with_its_log(tmp_path):
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit('no such device')")
    with pytest.raises(RuntimeError, match=r"ended with 1 before it answered:\nno such device"), ServedApp(script=script):
        pass


@pytest.mark.parametrize(("status", "body"), [("503", '{"status": "unavailable"}'), ("200", "<html>a page</html>")])
def test_an_app_that_never_gets_healthy_is_given_up(script, status, body, monkeypatch):
    """With server-side rendering Gradio's Node server answers paths it does not know with 200 and the page."""
    monkeypatch.setattr(served_app, "START_WITHIN_S", 2.0)
    app = ServedApp("--status", status, "--body", body, script=script)
    with pytest.raises(TimeoutError, match=f"status={status}"), app:
        pass
    assert not is_running(app.process.pid)


def test_an_app_that_ignores_sigterm_is_killed(script, monkeypatch):
    monkeypatch.setattr(served_app, "END_WITHIN_S", 0.5)
    monkeypatch.setattr(served_app, "START_WITHIN_S", 2.0)
    app = ServedApp("--body", "stubborn", script=script)
    with pytest.raises(TimeoutError), app:
        pass
    assert app.process.returncode == -9


def test_settings_of_the_machine_do_not_reach_the_app_and_those_of_the_test_do(script, monkeypatch):
    monkeypatch.setenv("HFJAX_DEMO_MAX_WAITING", "3")
    monkeypatch.setenv("SPACE_ID", "someone/something")
    with ServedApp(script=script, environment={"GRADIO_SSR_MODE": "True", "HFJAX_DEMO_DEVICES": "4"}) as app:
        environment = app.healthz().body["environment"]
    assert not {"HFJAX_DEMO_MAX_WAITING", "SPACE_ID"} & environment.keys()
    assert environment["GRADIO_SSR_MODE"] == "True"
    assert environment["HFJAX_DEMO_DEVICES"] == "4"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["XLA_FLAGS"] == os.environ["XLA_FLAGS"]
    assert not Path(environment["GRADIO_TEMP_DIR"]).exists()
