"""Memory of batches is used again, and never while any tensor still uses it."""

import threading

import numpy as np
import torch

from platform.data.buffers import KEPT, Buffers


def test_memory_is_used_again_once_nobody_holds_it():
    buffers = Buffers()
    first = buffers.empty(4, 5)
    place = first.data_ptr()
    del first
    again = buffers.empty(2, 7)
    assert again.data_ptr() == place
    assert again.shape == (2, 7) and again.dtype == torch.float32 and again.is_contiguous()


def test_two_that_are_held_share_nothing():
    buffers = Buffers()
    held = [buffers.empty(3, 4).fill_(number) for number in range(10)]
    assert [tensor.unique().tolist() for tensor in held] == [[number] for number in range(10)]


def test_a_view_keeps_its_memory():
    buffers = Buffers()
    whole = buffers.empty(6, 5)
    whole.copy_(torch.arange(30.0).view(6, 5))
    part, as_numpy = whole[2:4, 1:], whole.numpy()
    del whole
    buffers.empty(6, 5).fill_(-1)
    assert part[0].tolist() == [11, 12, 13, 14]
    assert as_numpy[5, 4] == 29


def test_what_autograd_keeps_for_the_gradient_is_not_overwritten():
    buffers = Buffers()
    weights = torch.ones(5, requires_grad=True)
    inputs = buffers.empty(2, 5).fill_(3)
    loss = (inputs * weights).sum()
    del inputs
    buffers.empty(2, 5).fill_(100)
    loss.backward()
    assert weights.grad is not None and weights.grad.tolist() == [6] * 5


def test_a_longer_one_is_made_anew_and_memory_is_aligned_for_the_same_sums_every_time():
    buffers = Buffers()
    del_me = buffers.empty(3)
    del del_me
    long = buffers.empty(1000)
    assert long.shape == (1000,)
    assert long.data_ptr() % 64 == 0 and buffers.empty(3).data_ptr() % 64 == 0


def test_what_is_made_while_scoring_can_be_trained_on():
    buffers = Buffers()
    with torch.inference_mode():
        scored = buffers.empty(3).fill_(2)
        place = scored.data_ptr()
        del scored
    weights = torch.ones(3, requires_grad=True)
    inputs = buffers.empty(3).fill_(5)
    assert inputs.data_ptr() == place
    (inputs * weights).sum().backward()
    assert weights.grad is not None and weights.grad.tolist() == [5] * 3


def test_few_free_buffers_are_kept():
    buffers = Buffers()
    many = [buffers.empty(8) for _ in range(3 * KEPT)]
    many.clear()
    assert len(buffers._free) == KEPT


def test_threads_never_share_memory():
    buffers, wrong = Buffers(), []

    def use(number: int) -> None:
        for _ in range(300):
            own = buffers.empty(64).fill_(number)
            if np.any(own.numpy() != number):
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
