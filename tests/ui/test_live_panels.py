"""What a panel reads of a run that streams: always the latest, never by a name that can be guessed, and an end."""

import asyncio

from starlette.requests import Request

from hfjax_demo.ui.live_panels import END, LivePanels


async def read(events, count):
    """The next `count` events; fails rather than waiting for ever."""
    return [await asyncio.wait_for(anext(events), 5) for _ in range(count)]


def test_a_slow_reader_gets_the_latest_value_and_no_older_one():
    async def story():
        panels = LivePanels()
        with panels.opened() as panel:
            events = panel.events()
            panel.show("1")
            panel.show("2")
            first = await read(events, 1)
            panel.show("3")
            return first + await read(events, 1)

    assert asyncio.run(story()) == ["data: 2\n\n", "data: 3\n\n"]


def test_the_end_of_a_run_lets_a_waiting_reader_go():
    async def story():
        panels = LivePanels()
        with panels.opened() as panel:
            events = panel.events()
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
        return [await asyncio.wait_for(waiting, 5), *[event async for event in events]]

    assert asyncio.run(story()) == [END]


def test_a_run_that_is_over_or_never_was_is_an_end_at_once():
    async def story(name):
        answer = await LivePanels().answer(Request({"type": "http", "path_params": {"name": name}}))
        return answer.status_code, [part async for part in answer.body_iterator]

    assert asyncio.run(story("run-1")) == (200, [END])


def test_names_cannot_be_guessed_and_are_gone_with_the_run():
    panels = LivePanels()
    with panels.opened() as first, panels.opened() as second:
        assert len({first.name, second.name, *panels._panels}) == 2
        assert min(len(first.name), len(second.name)) >= 20
    assert panels._panels == {}
