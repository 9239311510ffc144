"""Several real processes form one mesh: the same tokens, and nobody waits for one that is gone."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from gradio_client import Client

from hfjax_demo.events import RunRecord
from hfjax_demo.plain_json import from_dict
from hfjax_demo.requests import GenerationRequest
from tests.architectures import prompt_of, write_architecture
from tests.process_group import ProcessGroup
from tests.served_app import REPOSITORY, ServedApp

pytestmark = pytest.mark.xdist_group("cluster")

NEW_TOKENS = 12
GENERATE = ("-m", "hfjax_demo", "generate", "--prompt", prompt_of(10), "--ignore-eos", "--max-new-tokens", str(NEW_TOKENS))
NOTICED_WITHIN_S = 10


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random Llama whose 8 query and 4 KV heads divide by every size here."""
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}
    return str(write_architecture("llama", tmp_path_factory.mktemp("models") / "llama", **heads))


@pytest.fixture(scope="module")
def tokens_of_one_process(engine, model):
    request = GenerationRequest(prompt_of(10), model=model, max_new_tokens=NEW_TOKENS, ignore_eos=True)
    tokens = engine.generate(request, allow_local=True).token_ids
    assert len(set(tokens)) > NEW_TOKENS // 2
    return tokens


@pytest.mark.parametrize(("num_processes", "devices", "tensor_parallel"), [(2, 2, 4), (4, 1, 4)])
def test_several_processes_give_the_tokens_of_one(model, tokens_of_one_process, num_processes, devices, tensor_parallel):
    command = [*GENERATE, "--model", model, "--tensor-parallel", str(tensor_parallel), "--json"]
    with ProcessGroup(num_processes, devices, command) as group:
        leader = subprocess.run(
            [sys.executable, *command, *group.flags],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert leader.returncode == 0, leader.stderr
        assert group.wait() == [0] * (num_processes - 1), group.log(1)
    record = from_dict(RunRecord, json.loads(leader.stdout))
    assert record.token_ids == tokens_of_one_process
    assert record.environment.num_processes == num_processes
    assert record.environment.mesh.size == tensor_parallel
    assert record.norms is not None
    each = tensor_parallel // num_processes
    assert [device.process for device in record.mesh.devices] == [i for i in range(num_processes) for _ in range(each)]
    assert len({(device.weights_bytes, device.kv_bytes) for device in record.mesh.devices}) == 1
    (decode,) = (program for program in record.mesh.programs if program.program.startswith("decode_step"))
    assert {found.kind: found.count for found in decode.collectives}["all-reduce"] == 2 * 2 + 1  # layers, embedding


def test_eager_over_both_is_refused_and_a_follower_that_dies_is_an_error_and_503_and_not_a_hang():
    """A collective whose other end was killed never returns on the CPU: the leader hung, and so did its visitors."""
    with ProcessGroup(2) as group, ServedApp(*group.flags) as app:
        assert app.healthz().is_good
        client = Client(app.url, verbose=False)
        with pytest.raises(Exception, match="its mesh must lie in one process"):
            client.predict("Once upon a time", mode="eager", tensor_parallel=2, api_name="/generate")
        job = client.submit("Once upon a time", max_new_tokens=900, tensor_parallel=2, api_name="/generate")
        wait_until(lambda: any(event["type"] == "StepEvent" for event in job.outputs()), 120)
        group.followers[0].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        with pytest.raises(Exception, match="needs all its 2 processes, but process 1 is gone"):
            job.result(timeout=NOTICED_WITHIN_S)
        wait_until(lambda: app.healthz().status == 503, NOTICED_WITHIN_S)
        assert time.monotonic() - killed < 2 * NOTICED_WITHIN_S
        assert "process 1 is gone" in app.healthz().body["reason"]
        with pytest.raises(Exception, match="process 1 is gone"):
            client.predict("again", api_name="/generate")
    assert app.process.returncode == 2


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGKILL, 2)])
def test_a_leader_that_ends_takes_its_followers_with_it(number, status):
    with ProcessGroup(2) as group, ServedApp(*group.flags) as app:
        os.kill(app.process.pid, number)
        assert group.wait() == [status], group.log(1)


def wait_until(condition, within_s):
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.1)
