"""What loading holds of the host's memory, measured in a process of its own: about one model, however it is cut and cast."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.served_app import REPOSITORY
from tests.tiny_models import write_tiny_llama

SCRIPT = """
import json, sys, threading
from pathlib import Path
from hfjax_demo.inference import model_loading
from hfjax_demo.inference.environment import configure_devices
from hfjax_demo.inference.loaded_model import ModelKey
from hfjax_demo.settings import Settings

folder, warm_up, dtype, tensor_parallel = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
configure_devices(4)

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def load(name):
    found = model_loading.find_model(ModelKey(name, dtype, tensor_parallel, True), Settings(), lambda *_: None)
    return model_loading.load_model(found, Settings(), lambda *_: None)

load(warm_up)  # code, caches and thread pools come with the first model
before, peak, is_over = anonymous(), 0, threading.Event()

def watch():
    global peak
    while not is_over.wait(0.002):
        peak = max(peak, anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
model = load(folder)
is_over.set()
watcher.join()
mapped = model_loading._map_weights(model_loading.resolve(folder, lambda *_: None, True))
parameter = next(iter(mapped.parameters()))
print(json.dumps({"held": model.held_bytes, "grown": peak - before, "dtype": str(parameter.dtype)}))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of 150 MB in float32, all of which divides by 4, and a tiny one."""
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 10, "num_attention_heads": 8}
    large = write_tiny_llama(tmp_path_factory.mktemp("large"), **sizes, num_key_value_heads=8)
    return large, write_tiny_llama(tmp_path_factory.mktemp("small"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of the process's memory")
@pytest.mark.parametrize(("dtype", "tensor_parallel"), [("float32", 4), ("bfloat16", 1)])
def test_loading_holds_about_one_model(folders, dtype, tensor_parallel):
    large, small = folders
    command = [sys.executable, "-c", SCRIPT, str(large), str(small), dtype, str(tensor_parallel)]
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=True)
    measured = json.loads(answer.stdout.splitlines()[-1])
    assert measured["held"] > 60_000_000
    assert measured["grown"] < 1.3 * measured["held"]
    assert measured["dtype"] == "torch.float32"  # mapped as the file has it, cast as it is moved
