"""Noise that is drawn a step ahead is the noise that would have been drawn, and is there when it is asked for."""

import threading

import pytest
import torch

from vco.api import Streams
from vco.randomness import noise
from vco.sampling.ahead import drawing_threads, one_ahead


def drawn(k: int) -> Streams:
    return noise({"image": (2, 3)}, range(4), 5, "solver", k)


def test_every_step_gets_its_own_noise_in_whatever_order_it_asks() -> None:
    with one_ahead(drawn, 6) as noise_of:
        for k in (0, 1, 2, 5, 3, 3, 4):
            assert torch.equal(noise_of(k)["image"], drawn(k)["image"])


def test_the_next_step_is_drawn_while_this_one_is_computed() -> None:
    asked, begun = list[int](), threading.Event()

    def draw(k: int) -> Streams:
        asked.append(k)
        if k == 1:
            begun.set()
        return drawn(k)

    with one_ahead(draw, 2) as noise_of:
        noise_of(0)
        assert begun.wait(timeout=60)  # nobody has asked for it yet
        noise_of(1)
    assert asked == [0, 1]


def test_nothing_is_drawn_for_a_solver_that_asks_for_nothing() -> None:
    asked = list[int]()
    with one_ahead(lambda k: asked.append(k) or drawn(k), 9):
        pass
    assert asked == []


def test_an_error_of_a_thread_comes_out_where_its_noise_is_asked_for() -> None:
    def broken(k: int) -> Streams:
        raise ValueError(f"step {k}")

    with one_ahead(broken, 3) as noise_of, pytest.raises(ValueError, match="step 0"):
        noise_of(0)


def test_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert drawing_threads("cpu") == 1
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert drawing_threads("cuda") == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert drawing_threads("cuda") == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert drawing_threads("cuda") == 1
