"""A replica's events of many answers, fetched by gateways."""

import asyncio
import contextvars

import pytest

from ftlib.inference.protocol import GenerationRequest, TokenEvent
from serve_apps import mail
from serve_apps.mail import LostError, Mailboxes, Postman, Refused, Started


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(mail, "_IDLE_S", 0.2)
    monkeypatch.setattr(mail, "_GRACE_S", 0.3)


def _event(number, last=False):
    return TokenEvent(number, str(number), "length" if last else None)


async def _take(bundles, count):
    """The next `count` letters, and how many bundles they came in."""
    letters, num_bundles = [], 0
    while len(letters) < count:
        letters += await asyncio.wait_for(anext(bundles), 5)
        num_bundles += 1
    return [(name, number, event.token) for name, number, event in letters], num_bundles


def test_what_comes_together_is_fetched_together_by_those_it_is_for():
    async def whole():
        mailboxes = Mailboxes()
        bundles = {gateway: mailboxes.fetch(gateway) for gateway in ("one", "two")}
        with (
            mailboxes.writing("one", "a") as first,
            mailboxes.writing("one", "b") as second,
            mailboxes.writing("two", "c") as other,
        ):
            for step in range(3):
                waiting = {gateway: asyncio.ensure_future(anext(taken)) for gateway, taken in bundles.items()}
                await asyncio.sleep(0)
                for send in (first, second, other):
                    send(_event(step + 7))
                assert await waiting["one"] == [("a", step, _event(step + 7)), ("b", step, _event(step + 7))]
                assert await waiting["two"] == [("c", step, _event(step + 7))]
        for taken in bundles.values():
            assert await asyncio.wait_for(anext(taken, None), 5) is None
        assert len(mailboxes) == 0

    asyncio.run(whole())


def test_events_before_a_gateway_listens_wait_for_it_in_order():
    async def whole():
        mailboxes = Mailboxes()
        with mailboxes.writing("one", "a") as send:
            for number in range(5):
                send(_event(number))
        bundles = mailboxes.fetch("one")
        assert await _take(bundles, 5) == ([("a", number, number) for number in range(5)], 1)

    asyncio.run(whole())


def test_who_asks_anew_takes_over():
    async def whole():
        mailboxes = Mailboxes()
        with mailboxes.writing("one", "a") as send:
            old = mailboxes.fetch("one")
            send(_event(0))
            assert await _take(old, 1) == ([("a", 0, 0)], 1)
            waiting = asyncio.ensure_future(anext(old, None))
            await asyncio.sleep(0)
            new = mailboxes.fetch("one")
            taken = asyncio.ensure_future(anext(new))
            assert await asyncio.wait_for(waiting, 5) is None
            send(_event(1))
            assert await asyncio.wait_for(taken, 5) == [("a", 1, _event(1))]

    asyncio.run(whole())


def test_listening_goes_on_while_an_answer_is_on_its_way_and_ends_a_while_after():
    async def whole():
        mailboxes = Mailboxes()
        bundles = mailboxes.fetch("one")
        with mailboxes.writing("one", "a") as send:
            waiting = asyncio.ensure_future(anext(bundles, None))
            await asyncio.sleep(0.5)
            assert not waiting.done()
            send(_event(0))
            assert await waiting == [("a", 0, _event(0))]
        with mailboxes.writing("one", "b") as send:
            await asyncio.sleep(0.5)
            send(_event(5))
        assert await _take(bundles, 1) == ([("b", 0, 5)], 1)
        assert await asyncio.wait_for(anext(bundles, None), 5) is None
        assert len(mailboxes) == 0

    asyncio.run(whole())


def test_events_of_a_gateway_that_died_are_forgotten():
    async def whole():
        mailboxes = Mailboxes()
        with mailboxes.writing("one", "a") as send:
            send(_event(0))
        assert len(mailboxes) == 1
        await asyncio.sleep(0.5)
        assert len(mailboxes) == 0

    asyncio.run(whole())


class _Response:
    """In place of Serve's: an answer to a call, with what a test makes happen to it."""

    def __init__(self, items):
        self._items = items
        self.context = contextvars.copy_context()

    def __aiter__(self):
        return self._items

    def cancel(self):
        pass


class _Engines:
    """In place of a handle of Serve, whose replicas do not lose events at a test's word."""

    def __init__(self, generate, listen):
        self._methods = {"generate": generate, "listen": listen}
        self.responses = []

    def options(self, method_name, **_options):
        engines, method = self, self._methods[method_name]

        class _Bound:
            def remote(self, *arguments):
                engines.responses.append(_Response(method(*arguments)))
                return engines.responses[-1]

        return _Bound()


def _request(name="a"):
    return GenerationRequest(name, (1,), 4)


async def _all(postman, request):
    return [item async for item in postman.answer(request)]


def _replica(events_of):
    """`generate` and `listen` of a replica that sends events from `events_of(request id)`."""
    mailboxes = Mailboxes()

    async def generate(request, gateway):
        yield Started("r")
        with mailboxes.writing(gateway, request.request_id) as send:
            for event in events_of(request.request_id):
                await asyncio.sleep(0.01)
                send(event)

    async def listen(wish):
        async for letters in mailboxes.fetch(wish.gateway):
            yield letters

    return generate, listen


def test_answers_share_one_stream_that_no_request_owns():
    async def whole():
        marker = contextvars.ContextVar("marker", default=None)
        engines = _Engines(*_replica(lambda _: [_event(number, number == 3) for number in range(4)]))
        postman = Postman(engines, "gateway")
        marker.set("a request")
        found = await asyncio.gather(*(_all(postman, _request(name)) for name in "abc"))
        assert [[event.token for event in events] for events in found] == [[0, 1, 2, 3]] * 3
        assert [response.context.get(marker) for response in engines.responses] == ["a request"] * 3 + [None]
        await asyncio.sleep(0.5)
        assert len(await _all(postman, _request("later"))) == 4
        assert len(engines.responses) == 6, "the stream ended when nothing was on its way"

    asyncio.run(whole())


def test_a_lost_event_and_a_lost_end_are_seen():
    async def whole(listen):
        generate, _ = _replica(lambda _: [_event(0), _event(1, True)])
        postman = Postman(_Engines(generate, listen), "gateway")
        taken = []
        with pytest.raises(LostError):
            async for event in postman.answer(_request()):
                taken.append(event.token)
        return taken

    async def with_a_gap(_wish):
        yield [("a", 0, _event(0))]
        yield [("a", 2, _event(2, True))]
        await asyncio.sleep(60)

    async def without_end(_wish):
        yield [("a", 0, _event(0))]
        await asyncio.sleep(60)

    async def broken(_wish):
        yield [("a", 0, _event(0))]
        raise RuntimeError("connection reset")

    async def of_another_replica(_wish):
        yield []

    assert asyncio.run(whole(with_a_gap)) == [0]
    assert asyncio.run(whole(without_end)) == [0]
    assert asyncio.run(whole(broken)) == [0]
    assert asyncio.run(whole(of_another_replica)) == []


def test_refusals_and_failures_of_the_call_reach_who_asked():
    async def refuse(_request, _gateway):
        yield Started("r")
        yield Refused("queue")

    async def fail(_request, _gateway):
        yield Started("r")
        raise RuntimeError("the replica died")

    async def whole(generate):
        postman = Postman(_Engines(generate, _replica(lambda _: [])[1]), "gateway")
        return await asyncio.wait_for(_all(postman, _request()), 5)

    assert asyncio.run(whole(refuse)) == [Refused("queue")]
    with pytest.raises(RuntimeError, match="died"):
        asyncio.run(whole(fail))


def test_closing_tells_who_waits():
    async def whole():
        generate, listen = _replica(lambda _: [_event(0)] * 1000)
        postman = Postman(_Engines(generate, listen), "gateway")
        answer = postman.answer(_request())
        await anext(answer)
        postman.close()
        with pytest.raises(LostError):
            while True:
                await asyncio.wait_for(anext(answer), 5)

    asyncio.run(whole())
