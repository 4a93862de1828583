"""Compiled kernels give what PyTorch gives, wherever they are used; threads share work without losing any of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_cases import as_changes, decisions_of, random_images, with_kernels
from torch import Tensor, nn
from torch.nn import functional

from saliency_wrappers import PerturbationSaliency, as_adapter
from saliency_wrappers.models.networks import BabyA3CGRU
from saliency_wrappers.saliency.incremental import kernels
from saliency_wrappers.saliency.incremental import parallel as threads
from saliency_wrappers.saliency.incremental.gathered_matmul import Product, Seen, compute, direct, elu, relu
from saliency_wrappers.saliency.incremental.kernels import load_kernels
from saliency_wrappers.saliency.incremental.masked_input import MaskedInput, masked_images
from saliency_wrappers.saliency.incremental.parallel import parallel_for, single_torch_thread
from saliency_wrappers.saliency.incremental.positions import Batch, Places, counted
from saliency_wrappers.saliency.incremental.scratch import workspace
from saliency_wrappers.saliency.incremental.tensor import IncrementalBatch

laws = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.fixture(autouse=True)
def several_threads() -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with workspace.run():
        yield
    torch.set_num_threads(before)


def both_ways(function: Callable[[], Any]) -> tuple[Any, Any]:
    """What a function gives with kernels, and without."""
    found: list[Any] = []
    for there in (True, False):
        with with_kernels(there):
            found.append(function())
    return found[0], found[1]


@laws
@given(
    rows=st.integers(1, 40),
    taps=st.integers(1, 5),
    channels=st.integers(1, 6),
    width=st.sampled_from([16, 32, 48, 64]),
    places=st.integers(1, 400),
    bias=st.booleans(),
    function=st.sampled_from([None, relu, elu, torch.tanh]),
    seed=st.integers(0, 2**16),
)
def test_a_product_is_the_same(rows: int, taps: int, channels: int, width: int, places: int, bias: bool, function: Any, seed: int):
    random = torch.Generator().manual_seed(seed)

    def any_of(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=random)

    content = torch.randn(rows, channels, generator=random)
    content[-1] = 0
    seen = Seen(
        content,
        any_of(rows, 5, 8).int(),
        7,
        any_of(8, 9, taps),
        torch.stack([any_of(5, places), any_of(9, places)], dim=1).int(),
        idle=rows - 1,
    )
    product = Product(torch.randn(taps * channels, width, generator=random), torch.randn(width, generator=random) if bias else None)

    def done() -> Tensor:
        out = torch.full((places, width), torch.nan)
        compute(seen, product, () if function is None else (function, torch.neg), out)
        return out

    ours, theirs = both_ways(done)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_activations_are_right_at_every_height():
    x = torch.cat([torch.linspace(-100, 3, 1600), torch.tensor([0.0, -0.0, -1e-30, -1e-8, torch.inf, -torch.inf, torch.nan, 88.0])])[
        :, None
    ]
    seen = Seen(x, torch.arange(len(x) + 1, dtype=torch.int32)[None], len(x), torch.arange(len(x))[:, None], places_of(len(x)))
    for function, expected in ((relu, nn.functional.relu), (elu, nn.functional.elu)):
        out = torch.empty(len(x), 16)
        compute(seen, Product(torch.ones(1, 16), None), (function,), out)
        torch.testing.assert_close(out, expected(x).expand(-1, 16), rtol=0, atol=2e-7, equal_nan=True)


def places_of(count: int) -> Tensor:
    positions = torch.arange(count, dtype=torch.int32)
    return torch.stack([torch.zeros_like(positions), positions], dim=1)


@laws
@given(shape=st.tuples(st.integers(1, 30), st.integers(1, 9), st.integers(1, 9)), frames=st.integers(1, 4), seed=st.integers(0, 2**16))
def test_places_are_the_same(shape: tuple[int, int, int], frames: int, seed: int):
    random = torch.Generator().manual_seed(seed)
    changed = torch.rand(shape, generator=random) > 0.6
    of = torch.randint(frames, (shape[0],), generator=random).sort().values.unique(return_inverse=True)[1]
    batch = Batch.of(changed, of)
    ours, theirs = both_ways(lambda: Places.of(batch))
    assert torch.equal(ours.listed, theirs.listed)
    assert torch.equal(ours.lookup, theirs.lookup)
    assert ours.known == theirs.known == len(batch.first) * batch.positions
    counts, expected = both_ways(lambda: counted(changed.flatten(1)))
    assert torch.equal(counts, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_masked_images_are_the_same(channels: int):
    random = torch.Generator().manual_seed(1)
    x, change = torch.rand(2, channels, 5, 6, generator=random)
    replaced, rows = torch.rand(9, 1, 5, 6, generator=random), torch.tensor([0, 2, 3, 8])

    def made() -> Tensor:
        out = torch.full((4, 31, channels), torch.nan)
        masked_images(MaskedInput(x, change, replaced, rows), out)
        return out

    ours, theirs = both_ways(made)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-7)


def test_the_maps_are_the_same():
    torch.manual_seed(1)
    adapter = as_adapter(BabyA3CGRU(4).eval())
    decisions = decisions_of(adapter, 3)
    method = PerturbationSaliency(path="incremental")
    for ours, theirs in zip(*both_ways(lambda: method.outputs(adapter, decisions[0]).logits), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    assert "by compiled kernels" in method.plan(adapter, decisions[0]).reason
    with with_kernels(False):
        assert "by PyTorch" in method.plan(adapter, decisions[0]).reason


# Where there are none


def test_other_dtypes_and_widths_and_devices_have_no_kernel():
    assert direct(torch.zeros(1, 32), None) is not None
    assert direct(torch.zeros(1, 32), torch.zeros(32)) is not None
    for width in (0, 20):
        assert direct(torch.zeros(1, width), None) is None
    for other in (torch.zeros(16), torch.zeros(32, dtype=torch.float64), torch.zeros(32, device="meta")):
        assert direct(torch.zeros(1, 32), other) is None
    assert direct(torch.zeros(1, 32, dtype=torch.float64), None) is None
    assert load_kernels(torch.zeros(1, device="meta")) is None


def test_without_numba_pytorch_does_it():
    program = """
import sys
sys.modules["numba"] = None
import torch
from saliency_wrappers.saliency.incremental.kernels import load_kernels
print(load_kernels(torch.zeros(1)))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "None"


def changed_images() -> IncrementalBatch:
    images, changed, frames = random_images(1, 1, 4, 2, 5, 5)
    return IncrementalBatch(as_changes(images, changed, frames))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: functional.conv2d(x, torch.zeros(32, 1, 3, 3)).sum(),
        lambda x: functional.conv2d(x, torch.zeros(32, 2, 3, 3, dtype=torch.float64)).sum(),
        lambda x: functional.conv2d(x, torch.zeros(32, 2, 3, 3), torch.zeros(16)).sum(),
        lambda x: functional.linear(functional.conv2d(x, torch.zeros(3, 2, 3, 3)).flatten(1), torch.zeros(32, 54)),
        lambda x: functional.linear(functional.conv2d(x, torch.zeros(3, 2, 3, 3)).flatten(1), torch.zeros(32, 27, dtype=torch.float64)),
    ],
)
def test_what_does_not_fit_is_an_error_as_it_is_in_pytorch(call: Callable[[Tensor], Tensor]):
    with torch.inference_mode(), pytest.raises(RuntimeError):
        call(changed_images())


@pytest.mark.parametrize("shape", [(27,), (0, 27)])
def test_linear_layers_of_unusual_shapes_are_pytorchs_own(shape: tuple[int, ...]):
    weight, kernel = torch.rand(shape), torch.rand(3, 2, 3, 3)
    images = random_images(1, 1, 4, 2, 5, 5)[0]
    with torch.inference_mode():
        ours, theirs = (functional.linear(functional.conv2d(x, kernel).flatten(1), weight) for x in (changed_images(), images))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("variable", ["NUMBA_CPU_NAME=generic", "NUMBA_DISABLE_JIT=1"])
def test_code_for_another_processor_is_not_taken(variable: str):
    name, _, value = variable.partition("=")
    program = "import torch; from saliency_wrappers.saliency.incremental.kernels import load_kernels; print(load_kernels(torch.zeros(1)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ | {name: value})
    assert run.stdout.strip() == "None"


def test_kernels_that_cannot_be_loaded_are_done_without(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    def damaged() -> None:
        raise EOFError("Ran out of input")

    monkeypatch.setattr(load_kernels(torch.zeros(1)), "warm_up", damaged)
    assert kernels._kernels.__wrapped__() is None
    assert "could not be made or read: EOFError: Ran out of input" in caplog.text


# Threads


@pytest.mark.parametrize(("count", "least"), [(0, 1), (1, 1), (7, 1), (100, 3), (100, 0), (100, 1000)])
def test_each_part_is_done_once(count: int, least: int):
    done: list[tuple[int, int]] = []
    parallel_for(lambda begin, end: done.append((begin, end)), count, least)
    assert [i for begin, end in sorted(done) for i in range(begin, end)] == list(range(count))
    assert len(done) == 1 or min(end - begin for begin, end in done) >= least


def test_several_threads_share_the_work():
    together = threading.Barrier(3)
    parallel_for(lambda begin, end: together.wait(timeout=20), 3, 1)


def test_an_error_in_any_thread_reaches_the_caller():
    def fail(begin: int, end: int) -> None:
        if begin == 2:
            raise ValueError("of one part")

    with pytest.raises(ValueError, match="of one part"):
        parallel_for(fail, 12, 1)


def test_an_error_waits_for_the_other_threads():
    begun, ended = threading.Event(), threading.Event()
    caller = threading.get_ident()

    def work(begin: int, end: int) -> None:
        if threading.get_ident() == caller:
            begun.wait(timeout=20)
            raise ValueError("of the caller's part")
        begun.set()
        time.sleep(0.1)
        ended.set()

    with pytest.raises(ValueError, match="of the caller's part"):
        parallel_for(work, 2, 1)
    assert ended.is_set()


def test_within_alone_pytorch_uses_one_thread_and_work_is_shared_all_the_same():
    together = threading.Barrier(3)
    with single_torch_thread():
        with single_torch_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
        parallel_for(lambda begin, end: together.wait(timeout=20), 3, 1)
    assert torch.get_num_threads() == 3


def test_threads_that_are_alone_at_the_same_time_get_their_threads_back():
    inside, leave = threading.Barrier(2), threading.Event()
    seen: list[int] = []

    def other() -> None:
        with single_torch_thread():
            inside.wait(timeout=20)
            leave.wait(timeout=20)
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    with single_torch_thread():
        thread.start()
        inside.wait(timeout=20)
    assert torch.get_num_threads() == 3
    leave.set()
    thread.join()
    assert seen == [3]


def test_an_error_gives_the_threads_back():
    with pytest.raises(KeyError), single_torch_thread():
        raise KeyError
    assert torch.get_num_threads() == 3


def test_after_an_error_no_range_is_begun():
    done: list[int] = []

    def work(begin: int, end: int) -> None:
        done.append(begin)
        raise ValueError("of the first")

    with pytest.raises(ValueError, match="of the first"):
        parallel_for(work, 12, 1)
    assert len(done) <= 3  # one for each thread


def test_an_interrupt_waits_for_the_other_threads():
    program = """
import os, signal, threading, time
import torch
from saliency_wrappers.saliency.incremental.parallel import parallel_for
torch.set_num_threads(2)
signal.signal(signal.SIGINT, signal.default_int_handler)
main, begun, ended = threading.get_ident(), threading.Event(), threading.Event()
def work(begin, end):
    if threading.get_ident() == main:
        begun.wait(20)
    else:
        begun.set()
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        ended.set()
try:
    parallel_for(work, 2, 1)
except KeyboardInterrupt:
    print("interrupted", ended.is_set())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "interrupted True"


def test_where_no_thread_can_be_started_the_caller_does_everything(monkeypatch: pytest.MonkeyPatch):
    def fails(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_pools", [])
    monkeypatch.setattr(threading.Thread, "start", fails)
    done: list[int] = []
    parallel_for(lambda begin, end: done.extend(range(begin, end)), 12, 1)
    assert sorted(done) == list(range(12))


def test_one_thread_stays_one():
    torch.set_num_threads(1)
    with single_torch_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_threads_of_its_own():
    program = """
import os, warnings
import torch
from saliency_wrappers.saliency.incremental.parallel import parallel_for
warnings.simplefilter("ignore")
torch.set_num_threads(2)
parallel_for(lambda begin, end: None, 10, 1)
child = os.fork()
if not child:
    done = []
    parallel_for(lambda begin, end: done.extend(range(begin, end)), 10, 1)
    os._exit(0 if sorted(done) == list(range(10)) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "0"


def test_while_the_interpreter_ends_one_thread_does_all():
    program = """
import atexit
import torch
from saliency_wrappers.saliency.incremental.parallel import parallel_for
torch.set_num_threads(2)
parallel_for(lambda begin, end: None, 10, 1)
done = []
atexit.register(lambda: (parallel_for(lambda begin, end: done.extend(range(begin, end)), 10, 1), print(sorted(done) == list(range(10)))))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "True"


@pytest.mark.parametrize("compiles", [True, False])
def test_compiling_is_announced_on_stderr(compiles: bool, capsys: pytest.CaptureFixture[str]):
    import numba
    from numba.core import event

    assert numba
    with kernels._announced():
        for _ in range(2 if compiles else 0):
            with event.trigger_event("numba:compile"):
                pass
    said = capsys.readouterr().err
    assert said.count("compiling kernels for this processor") == int(compiles)
    assert said.count("\n") == int(compiles)
