"""A line between two processes: messages arrive, and an end that is gone is noticed, however it went."""

import queue
import socket

import pytest

from hfjax_demo.inference import control_channel
from hfjax_demo.inference.control_channel import Channel, LostError

WITHIN_S = 5


@pytest.fixture
def ends():
    """Both ends of a line, not started."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = Channel(socket.create_connection(server.getsockname()))
        far = Channel(server.accept()[0])
    yield near, far
    near.close()
    far.close()


def started(channel):
    """What a started channel tells: its messages, and how the other end was lost."""
    messages, losses = queue.SimpleQueue(), queue.SimpleQueue()
    channel.start(messages.put, losses.put)
    return messages, losses


def test_messages_arrive_in_order_and_whole(ends):
    near, far = ends
    messages, _ = started(far)
    prompt = "a line\nand another \u05e9\u05dc\u05d5\u05dd " * 5000
    near.send(do="start", prompt=prompt)
    near.send(do="advance")
    assert messages.get(timeout=WITHIN_S) == {"do": "start", "prompt": prompt}
    assert messages.get(timeout=WITHIN_S) == {"do": "advance"}


def test_an_end_that_closes_is_noticed_at_once(ends):
    near, far = ends
    _, losses = started(far)
    near.close()
    assert str(losses.get(timeout=WITHIN_S)) == "it ended"


def test_an_end_that_is_frozen_is_noticed_after_a_while(ends, monkeypatch):
    """The socket of a frozen machine stays open: only silence tells."""
    monkeypatch.setattr(control_channel, "SILENT_AFTER_S", 0.2)
    _, far = ends
    _, losses = started(far)
    assert "nothing was heard of it" in str(losses.get(timeout=WITHIN_S))


def test_an_end_that_only_says_it_is_alive_is_not_lost(ends, monkeypatch):
    monkeypatch.setattr(control_channel, "ALIVE_EVERY_S", 0.05)
    monkeypatch.setattr(control_channel, "SILENT_AFTER_S", 0.5)
    near, far = ends
    started(near)
    messages, losses = started(far)
    with pytest.raises(queue.Empty):
        losses.get(timeout=1.5)
    assert messages.empty()


def test_what_is_no_message_ends_the_line(ends):
    near, far = ends
    _, losses = started(far)
    near._socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert "no message" in str(losses.get(timeout=WITHIN_S))


def test_sending_to_an_end_that_is_gone_says_so(ends):
    near, far = ends
    far.close()

    def send_on():
        for _ in range(100):
            near.send(do="advance")  # the first ones still fit the socket's buffer

    with pytest.raises(LostError, match="the connection broke"):
        send_on()


def test_closing_ones_own_end_loses_nothing(ends):
    _, far = ends
    _, losses = started(far)
    far.close()
    with pytest.raises(queue.Empty):
        losses.get(timeout=0.3)
