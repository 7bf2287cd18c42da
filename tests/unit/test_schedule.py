"""Learning rate and sample order as functions of the step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftlib.train.schedule import Cursor, SampleStream, Schedule, micro_seed, num_steps


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_rate_rises_to_the_peak_then_falls_to_the_floor(kind):
    schedule = Schedule(1.0, total_steps=100, kind=kind, warmup_fraction=0.1, floor_fraction=0.2)
    rates = [schedule.rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(1.0 if kind == "constant" else 0.2)


def test_no_warmup_starts_at_the_peak():
    assert Schedule(3e-4, 10, warmup_fraction=0.0).rate(0) == 3e-4


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 5))
def test_each_epoch_uses_every_sample_once_and_batches_are_full(num_samples, batch_size, seed):
    stream = SampleStream(num_samples, batch_size, seed)
    steps = 3 * num_samples  # three epochs times the batch size
    drawn = [sample for step in range(steps) for sample in stream.batch(step)]
    assert len(drawn) == steps * batch_size
    for epoch in range(3):
        part = drawn[epoch * num_samples : (epoch + 1) * num_samples]
        assert sorted(part) == list(range(num_samples))


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 50))
def test_cursor_finds_its_step_again(num_samples, batch_size, step):
    stream = SampleStream(num_samples, batch_size, seed=3)
    assert stream.step_at(stream.cursor(step)) == step


def test_cursor_of_another_seed_or_between_batches_is_refused():
    stream = SampleStream(10, 4, seed=1)
    for cursor in (Cursor(0, 2, 4), Cursor(0, 1, 3)):
        with pytest.raises(ValueError, match="does not lie"):
            stream.step_at(cursor)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 12), st.sampled_from([0.05, 0.3, 0.5, 0.9]))
def test_replay_has_its_share_and_both_streams_lose_nothing(num_samples, num_replayed, batch_size, share):
    stream = SampleStream(num_samples, batch_size, 3, num_replayed, share)
    steps = 40
    drawn = [sample for step in range(steps) for sample in stream.batch(step)]
    own = [sample for sample in drawn if sample < num_samples]
    replayed = [sample - num_samples for sample in drawn if sample >= num_samples]
    assert abs(len(replayed) - share * len(drawn)) < 1.001
    for part, size in ((own, num_samples), (replayed, num_replayed)):
        for epoch in range(len(part) // size):
            assert sorted(part[epoch * size : (epoch + 1) * size]) == list(range(size))
    for step in range(steps):
        assert stream.step_at(stream.cursor(step)) == step
    assert stream.epochs(steps) == pytest.approx(len(own) / num_samples)


def test_epochs_differ_in_order():
    stream = SampleStream(50, 50, seed=0)
    assert stream.batch(0) != stream.batch(1)
    assert stream.batch(0) == SampleStream(50, 50, seed=0).batch(0)


def test_number_of_steps():
    assert num_steps(100, 16, 1.0, None) == 7
    assert num_steps(100, 16, 0.5, None) == 4
    assert num_steps(100, 16, 1.0, 3) == 3
    assert num_steps(100, 16, 1.0, None, replay_share=0.5) == 13


def test_dropout_seeds_differ_by_step_and_micro_batch():
    seeds = {micro_seed(1, step, micro) for step in range(20) for micro in range(20)}
    assert len(seeds) == 400
    assert micro_seed(1, 2, 3) == micro_seed(1, 2, 3)
