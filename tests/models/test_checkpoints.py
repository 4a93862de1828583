"""Networks are told from their weights, and every file that is no checkpoint has its own clear error and runs no code."""

from __future__ import annotations

import os
import pickle
import random
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tiny_agents import images, seeded
from torch import Tensor, nn

from saliency_wrappers.models.checkpoints import (
    CheckpointError,
    UnsafeCheckpointError,
    load_checkpoint,
    load_pretrained,
    pretrained_agents,
)
from saliency_wrappers.models.networks import AtariLSTM, BabyA3CGRU, GreydanusLSTM

NETWORKS = [GreydanusLSTM, BabyA3CGRU, AtariLSTM]
SIZES = {GreydanusLSTM: 80, BabyA3CGRU: 80, AtariLSTM: 84}


def weights_of(family: Any = BabyA3CGRU, **arguments: Any) -> dict[str, Tensor]:
    return seeded(family, **({"num_actions": 4} | arguments)).state_dict()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.80.tar"


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("channels", [1, 4])
def test_networks_act_in_batches_and_begin_with_zeros(family: Any, channels: int):
    model = seeded(family, num_actions=5, channels=channels)
    state = model.initial_state(2)
    assert not any(leaf.any() for leaf in (state if isinstance(state, tuple) else (state,)))
    value, logits, after = model((images(2, channels, SIZES[family]), state))
    assert (value.shape, logits.shape) == ((2, 1), (2, 5))
    assert type(after) is type(state)
    second = model((images(2, channels, SIZES[family]), after))[1]
    assert not torch.allclose(logits, second)  # the same pictures, remembered


@pytest.mark.parametrize("family", [GreydanusLSTM, AtariLSTM])
def test_the_two_zeros_of_an_initial_lstm_state_are_not_one_tensor(family: Any):
    hx, cx = seeded(family, num_actions=2).initial_state(1)
    hx.add_(1)
    assert not cx.any()


@pytest.mark.parametrize("family", NETWORKS)
def test_initial_states_are_of_the_networks_own_dtype(family: Any):
    model = seeded(family, num_actions=2).double()
    _, logits, _ = model((images(1, 1, SIZES[family]).double(), model.initial_state(1)))
    assert logits.dtype == torch.float64


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize(("num_actions", "channels"), [(4, 1), (6, 4)])
def test_family_actions_and_channels_are_told_from_the_weights(family: Any, num_actions: int, channels: int, file: Path):
    weights = weights_of(family, num_actions=num_actions, channels=channels)
    torch.save(weights, file)
    model = load_checkpoint(file)
    assert type(model) is family
    assert not model.training
    assert (model.actor_linear.out_features, model.conv1.in_channels) == (num_actions, channels)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_both_formats_of_torch_are_read(legacy: bool, file: Path):
    torch.save(weights_of(), file, _use_new_zipfile_serialization=not legacy)
    assert zipfile.is_zipfile(file) is not legacy
    assert isinstance(load_checkpoint(str(file)), BabyA3CGRU)


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict"])
def test_weights_are_found_within_a_training_checkpoint(key: str, file: Path):
    torch.save({"epoch": 3, "optimizer": {"lr": 1e-4, "state": [1, 2]}, key: weights_of(GreydanusLSTM)}, file)
    assert isinstance(load_checkpoint(file), GreydanusLSTM)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_float_type_become_float32(dtype: torch.dtype, file: Path):
    torch.save({name: tensor.to(dtype) for name, tensor in weights_of().items()}, file)
    assert load_checkpoint(file).conv1.weight.dtype == torch.float32


def test_safetensors_are_read(tmp_path: Path):
    safetensors.torch.save_file(weights_of(AtariLSTM), tmp_path / "agent.safetensors")
    assert isinstance(load_checkpoint(tmp_path / "agent.safetensors"), AtariLSTM)


def test_the_highest_number_of_a_folder_is_taken_as_a_number(tmp_path: Path):
    # As text, 8 would win; by time, 40 would.
    for num_actions, name in [(2, "model.8.tar"), (3, "model.100.tar"), (4, "strong.40.tar"), (5, "best.tar"), (6, "model.999.tar.part")]:
        torch.save(weights_of(num_actions=num_actions), tmp_path / name)
    (tmp_path / "log.txt").write_text("not a checkpoint")
    (tmp_path / "videos.200.d").mkdir()
    assert load_checkpoint(tmp_path).actor_linear.out_features == 3


def test_a_missing_checkpoint_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"found nothing at .*absent\.tar"):
        load_checkpoint(tmp_path / "absent.tar")


def test_a_folder_without_numbered_checkpoints_says_how_they_are_named(tmp_path: Path):
    torch.save(weights_of(), tmp_path / "final.tar")
    with pytest.raises(FileNotFoundError, match=r"Expected checkpoints named like strong\.40\.tar in .*, found none"):
        load_checkpoint(tmp_path)


CORRUPT = r"model\.80\.tar \(\d+ bytes\) is corrupt, cut short or no PyTorch checkpoint"


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"hello, I am no checkpoint\n" * 40, b"PK\x03\x04" + bytes(60), random.Random(0).randbytes(3000), bytes(3000)],
    ids=["empty", "newline", "text", "zip header", "random", "zeros"],
)
def test_a_file_of_anything_else_is_corrupt(content: bytes, file: Path):
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=CORRUPT):
        load_checkpoint(file)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_cut_short_anywhere_is_corrupt(legacy: bool, file: Path):
    torch.save(weights_of(AtariLSTM), file, _use_new_zipfile_serialization=not legacy)
    whole = file.read_bytes()
    for percent in range(0, 100, 4):
        file.write_bytes(whole[: len(whole) * percent // 100])
        with pytest.raises(CheckpointError, match=CORRUPT):
            load_checkpoint(file)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_flipped_bytes_never_raise_anything_but_a_checkpoint_error(legacy: bool, file: Path):
    torch.save(
        {name: tensor for name, tensor in weights_of().items() if "gru" not in name}, file, _use_new_zipfile_serialization=not legacy
    )
    whole = file.read_bytes()
    dice = random.Random(2)
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(3):
            broken[dice.randrange(2500)] = dice.randrange(256)  # the pickled structure, at the beginning of both formats
        file.write_bytes(broken)
        with pytest.raises(CheckpointError):
            load_checkpoint(file)


def test_a_zip_of_something_else_is_corrupt(file: Path):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=CORRUPT):
        load_checkpoint(file)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b'{"a":1}'], ids=["empty", "zeros", "json"])
def test_corrupt_safetensors_say_so(content: bytes, tmp_path: Path):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.safetensors is corrupt or no safetensors file"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_safetensors_cut_short_are_corrupt(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(weights_of(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is corrupt or no safetensors file"):
        load_checkpoint(path)


class Payload:
    """Unpickled the ordinary way, it creates a file."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def payload(how: str, trace: Path) -> Payload:
    if how == "eval":
        return Payload(eval, f"open({str(trace)!r}, 'w').close()")
    return Payload(os.mkdir, str(trace))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "the-payload-ran"


UNSAFE = r"model\.80\.tar holds more than weights \({}\), which could run code when loaded\. Nothing was loaded"


@pytest.mark.parametrize("how", ["mkdir", "eval"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_malicious_checkpoint_is_refused_and_runs_nothing(how: str, legacy: bool, protocol: int, file: Path, trace: Path):
    content = {"model": weights_of(), "extra": payload(how, trace)}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    named = {"mkdir": r"(posix|nt)\.mkdir", "eval": "eval"}[how] if protocol == 2 else "a pickle of protocol 4 or newer"
    with pytest.raises(UnsafeCheckpointError, match=UNSAFE.format(named)):
        load_checkpoint(file)
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists(), "the payload is none: this test would prove nothing"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_plain_pickle_is_refused_and_runs_nothing(protocol: int, file: Path, trace: Path):
    file.write_bytes(pickle.dumps(payload("mkdir", trace), protocol=protocol))
    with pytest.raises(UnsafeCheckpointError, match=UNSAFE.format(r"[\w.]+|a pickle of protocol 4 or newer")):
        load_checkpoint(file)
    assert not trace.exists()
    pickle.loads(file.read_bytes())
    assert trace.exists()


def test_a_malicious_pickle_named_safetensors_runs_nothing(tmp_path: Path, trace: Path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps(payload("mkdir", trace)))
    with pytest.raises(CheckpointError, match="is corrupt or no safetensors file"):
        load_checkpoint(path)
    assert not trace.exists()


def test_a_whole_pickled_network_is_refused_with_what_to_save_instead(file: Path):
    torch.save(seeded(BabyA3CGRU, 4), file)
    message = UNSAFE.format(r"saliency_wrappers\.models\.networks\.BabyA3CGRU") + r"\. Save only `model\.state_dict\(\)`"
    with pytest.raises(UnsafeCheckpointError, match=message):
        load_checkpoint(file)


@pytest.mark.parametrize(
    "content",
    [[1, 2], {}, {"lr": 0.1}, torch.ones(3), {"model": {"a": "b"}}, 7],
    ids=["list", "empty dict", "numbers", "tensor", "nested", "int"],
)
def test_a_file_of_other_things_than_weights_is_refused(content: Any, file: Path):
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=r"Expected a state dict of dense tensors in .*model\.80\.tar, got (list|dict|Tensor|int)"):
        load_checkpoint(file)


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(32, 0, 3, 3),
        torch.zeros(32, 1, 3, 3, device="meta"),
        torch.zeros(32, 1, 3, 3).to_sparse(),
        torch.zeros(2, dtype=torch.cfloat),
    ],
    ids=["empty", "meta", "sparse", "complex"],
)
def test_a_weight_that_no_layer_can_hold_is_refused(weight: Tensor, file: Path):
    torch.save(weights_of() | {"conv1.weight": weight}, file)
    with pytest.raises(CheckpointError, match="Expected a state dict of dense tensors"):
        load_checkpoint(file)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(number: float, file: Path):
    weights = weights_of()
    weights["gru.bias_hh"][5] = number
    torch.save(weights, file)
    with pytest.raises(CheckpointError, match=r"The weights in .*model\.80\.tar are not finite: gru\.bias_hh\."):
        load_checkpoint(file)


@pytest.mark.parametrize("name", ["conv2.weight", "gru.weight_hh", "critic_linear.weight", "actor_linear.bias"])
def test_weights_of_a_wrong_shape_are_named(name: str, file: Path):
    torch.save(weights_of() | {name: torch.zeros(3, 3)}, file)
    with pytest.raises(CheckpointError, match=rf"(?s)do not fit BabyA3CGRU: .*size mismatch for {re.escape(name)}"):
        load_checkpoint(file)


@pytest.mark.parametrize("name", ["conv3.bias", "gru.bias_ih"])
def test_missing_weights_are_named(name: str, file: Path):
    torch.save({key: tensor for key, tensor in weights_of().items() if key != name}, file)
    with pytest.raises(CheckpointError, match=rf'(?s)do not fit BabyA3CGRU: .*Missing key\(s\) in state_dict: "{re.escape(name)}"'):
        load_checkpoint(file)


def test_weights_of_another_network_list_what_was_found(file: Path):
    torch.save(nn.Sequential(nn.Linear(2, 2)).state_dict() | {7: torch.ones(1)}, file)
    with pytest.raises(CheckpointError, match=r"belong to no known network \(expected conv1..4, .*\): \['0.bias', '0.weight', '7'\]"):
        load_checkpoint(file)


@pytest.mark.parametrize(("name", "weight"), [("actor_linear.weight", torch.tensor(1.0)), ("conv1.weight", torch.zeros(32, 1))])
def test_weights_of_a_wrong_rank_belong_to_no_known_network(name: str, weight: Tensor, file: Path):
    torch.save(weights_of() | {name: weight}, file)
    with pytest.raises(CheckpointError, match="belong to no known network"):
        load_checkpoint(file)


def test_every_checkpoint_error_is_a_value_error():
    assert issubclass(UnsafeCheckpointError, CheckpointError)
    assert issubclass(CheckpointError, ValueError)


def test_an_environment_without_a_bundled_agent_is_refused_with_those_that_have_one():
    with pytest.raises(ValueError, match=r"No agent for 'ALE/Chess-v5' ships with saliency_wrappers, only for \["):
        load_pretrained("ALE/Chess-v5")


def test_every_bundled_agent_acts_on_what_its_preprocessor_makes():
    for env_id in pretrained_agents():
        agent, preprocessor = load_pretrained(env_id)
        assert preprocessor.determines_input
        value, logits, _ = agent((torch.zeros(1, *preprocessor.input_shape), agent.initial_state(1)))
        assert torch.isfinite(logits).all()
        assert torch.isfinite(value).all()


@pytest.mark.parametrize("batch", [1, 65])
def test_features_in_inference_mode_equal_those_with_gradients(batch):
    model = GreydanusLSTM(num_actions=4)
    x = torch.rand(batch, 1, 80, 80, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        fast = model.features(x)
    torch.testing.assert_close(fast.clone(), model.features(x).detach(), rtol=0, atol=1e-6)
