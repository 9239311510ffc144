"""Processes meet before JAX starts: who differs, comes twice or not at all is told so, with the numbers and a way out."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hfjax_demo.errors import ClusterError, InvalidRequestError
from hfjax_demo.inference import cluster
from hfjax_demo.inference.cluster import gather, join
from hfjax_demo.inference.control_channel import Channel
from hfjax_demo.inference.environment import installed_versions
from hfjax_demo.inference.leader import Leader
from hfjax_demo.settings import Settings
from tests.served_app import free_port


@pytest.fixture(autouse=True)
def runtime(monkeypatch):
    """JAX's own runtime is not started: this process has one already. Real processes start it in test_cluster."""
    monkeypatch.setattr(cluster, "_start_runtime", lambda *_: None)
    monkeypatch.setattr(cluster, "MEET_WITHIN_S", 5.0)


def processes(num_processes):
    """The settings of each process of a group."""
    coordinator = f"127.0.0.1:{free_port()}"
    return [
        Settings(coordinator=coordinator, num_processes=num_processes, process_id=process_id)
        for process_id in range(num_processes)
    ]


def meeting(leader, *followers):
    """What `gather` and each `join` end with: an answer or a ClusterError."""
    with ThreadPoolExecutor(len(followers) + 1) as pool:
        futures = [pool.submit(lambda: Leader(gather(leader))), *(pool.submit(join, follower) for follower in followers)]
        return [future.exception() or future.result() for future in futures]


def test_all_meet_in_whatever_order_they_come():
    leader, *followers = meeting(*processes(4))
    assert isinstance(leader, Leader)
    assert leader.num_processes == 4
    assert all(isinstance(follower, Channel) for follower in followers)
    closed(leader, *followers)


def closed(leader, *followers):
    """Ends what met; in a real process `Leader.close` does, and leaves JAX's runtime."""
    for channel in (*leader._followers.values(), *followers):
        channel.close()


def test_another_version_is_refused_on_both_sides(monkeypatch):
    first, second = processes(2)
    calls = iter([installed_versions() | {"jax": "0.1.2"}])  # the one who comes says its versions first
    monkeypatch.setattr(cluster, "installed_versions", lambda: next(calls, installed_versions()))
    for err in meeting(first, second):
        assert isinstance(err, ClusterError)
        assert "must run the same versions, but process 1 has jax 0.1.2 where process 0 has " in str(err)
        assert "requirements.txt" in str(err)


def test_another_number_of_processes_is_refused_on_both_sides():
    first, _ = processes(2)
    other = Settings(coordinator=first.coordinator, num_processes=3, process_id=1)
    for err in meeting(first, other):
        assert "process 0 was told 2 and another 3" in str(err)


def test_an_id_that_comes_twice_is_refused():
    first, second, _ = processes(3)
    errors = meeting(first, second, second)
    assert all(isinstance(err, ClusterError) for err in errors)
    assert "two came as process 1 of 3" in str(errors[0])


def test_a_process_that_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr(cluster, "MEET_WITHIN_S", 0.5)
    first, *_ = processes(3)
    with pytest.raises(ClusterError, match=r"All 3 processes must come within 0 s, but processes 1, 2 did not come"):
        gather(first)


def test_a_coordinator_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(cluster, "MEET_WITHIN_S", 0.3)
    _, second = processes(2)
    with pytest.raises(ClusterError, match=r"Process 0 must listen at 127\.0\.0\.1:\d+ within"):
        join(second)


def test_a_port_that_is_taken_or_an_address_of_another_machine_is_an_error():
    first, _ = processes(2)
    with socket.create_server(first.coordinator_address), pytest.raises(ClusterError, match="a free port"):
        gather(first)
    elsewhere = Settings(coordinator="192.0.2.1:8476", num_processes=2)
    with pytest.raises(ClusterError, match=r"192\.0\.2\.1 is none of this machine's"):
        gather(elsewhere)


def test_a_stranger_that_knocks_is_ignored():
    """A port scan connected, sent what is no message, and took a follower's place."""
    first, second = processes(2)

    def knock_then_join():
        while True:
            try:
                with socket.create_connection(first.coordinator_address) as stranger:
                    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                return join(second)
            except ConnectionRefusedError:
                continue

    with ThreadPoolExecutor(2) as pool:
        leader, follower = pool.submit(gather, first), pool.submit(knock_then_join)
        closed(Leader(leader.result()), follower.result())
    assert leader.result().keys() == {1}


def test_what_another_process_could_not_do_is_said_with_its_id():
    leader, follower = meeting(*processes(2))
    broken = threading.Event()
    leader.watch(lambda _: broken.set())
    number = leader.tell("load", model={})
    assert follower.receive()["do"] == "load"
    follower.send(number=number, error="The weights are not here. Copy them.")
    with pytest.raises(ClusterError, match=r"process 1 of 2 could not: The weights are not here\. Copy them\."):
        leader.wait(number, lambda: None)
    again = leader.tell("load", model={})
    follower.send(number=again, error=None)
    leader.wait(again, lambda: None)
    assert not broken.is_set()
    follower.close()
    assert broken.wait(5)
    with pytest.raises(ClusterError, match="process 1 is gone"):
        leader.tell("advance")
    closed(leader)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"num_processes": 2}, "need a coordinator"),
        ({"coordinator": "127.0.0.1:1"}, "one process needs none"),
        ({"coordinator": "127.0.0.1", "num_processes": 2}, "must be HOST:PORT"),
        ({"coordinator": ":80", "num_processes": 2}, "must be HOST:PORT"),
        ({"coordinator": "host:99999", "num_processes": 2}, "must be HOST:PORT"),
        (
            {"coordinator": "host:80", "num_processes": 2, "process_id": 2},
            "must be from 0 to num_processes - 1 but is 2 of 2",
        ),
        ({"process_id": -1}, "must be from 0"),
        ({"num_processes": 0, "coordinator": None}, "num_processes"),
    ],
)
def test_settings_that_make_no_group_are_refused(knobs, message):
    with pytest.raises(InvalidRequestError, match=message):
        Settings(**knobs)
