"""A replica's events of many answers, fetched by gateways."""

import asyncio

from ftlib.inference.protocol import TokenEvent
from serve_apps import mail
from serve_apps.mail import Mailboxes


def _event(number):
    return TokenEvent(number, str(number))


async def _take(bundles, count):
    """The next `count` letters, and how many bundles they came in."""
    letters, number = [], 0
    while len(letters) < count:
        letters += await asyncio.wait_for(anext(bundles), 5)
        number += 1
    return [(name, event.token) for name, event in letters], number


def test_what_comes_together_is_fetched_together_by_those_it_is_for():
    async def whole():
        mailboxes = Mailboxes()
        bundles = {gateway: mailboxes.fetch(gateway) for gateway in ("one", "two")}
        with mailboxes.writing("one") as first, mailboxes.writing("one") as second, mailboxes.writing("two") as other:
            for step in range(3):
                waiting = {gateway: asyncio.ensure_future(anext(taken)) for gateway, taken in bundles.items()}
                await asyncio.sleep(0)
                for send, name in ((first, "a"), (second, "b"), (other, "c")):
                    send((name, _event(step)))
                assert await waiting["one"] == [("a", _event(step)), ("b", _event(step))]
                assert await waiting["two"] == [("c", _event(step))]
        for taken in bundles.values():
            await taken.aclose()
        assert len(mailboxes) == 0

    asyncio.run(whole())


def test_events_before_a_gateway_listens_wait_for_it_in_order():
    async def whole():
        mailboxes = Mailboxes()
        with mailboxes.writing("one") as send:
            for number in range(5):
                send(("a", _event(number)))
        bundles = mailboxes.fetch("one")
        assert await _take(bundles, 5) == ([("a", number) for number in range(5)], 1)
        await bundles.aclose()
        assert len(mailboxes) == 0

    asyncio.run(whole())


def test_who_asks_anew_takes_over():
    async def whole():
        mailboxes = Mailboxes()
        with mailboxes.writing("one") as send:
            old = mailboxes.fetch("one")
            send(("a", _event(0)))
            assert await _take(old, 1) == ([("a", 0)], 1)
            waiting = asyncio.ensure_future(anext(old, None))
            await asyncio.sleep(0)
            new = mailboxes.fetch("one")
            taken = asyncio.ensure_future(anext(new))
            assert await asyncio.wait_for(waiting, 5) is None
            send(("a", _event(1)))
            assert await asyncio.wait_for(taken, 5) == [("a", _event(1))]
            await new.aclose()
        assert len(mailboxes) == 0

    asyncio.run(whole())


def test_a_gateway_that_died_is_forgotten_when_its_answers_have_ended(monkeypatch):
    monkeypatch.setattr(mail, "_FORGOTTEN_S", 0.05)

    async def whole():
        mailboxes = Mailboxes()
        bundles = mailboxes.fetch("one")
        with mailboxes.writing("one") as send:
            waiting = asyncio.ensure_future(anext(bundles, None))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            send(("a", _event(0)))
            assert await waiting == [("a", _event(0))]
        assert await asyncio.wait_for(anext(bundles, None), 5) is None
        assert len(mailboxes) == 0

    asyncio.run(whole())
