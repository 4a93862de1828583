"""What a checkpoint may take: memory is bounded by the size of the file, and every refusal is a `CheckpointError`."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tiny_agents import seeded
from torch import Tensor

from saliency_wrappers.models import AtariLSTM, CheckpointError, UnsafeCheckpointError, load_checkpoint
from saliency_wrappers.models.limits import LARGEST_CHECKPOINT


def weights() -> dict[Any, Tensor]:
    return seeded(AtariLSTM, 4).state_dict()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.80.pt"


def peak() -> int:
    """The most memory that this process ever had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("conv1.weight", (16, 1, 2**14, 2**14)),
        ("conv1.weight", (2**20, 2**20, 8, 8)),
        ("conv1.weight", (16, 2**22, 8, 8)),
        ("actor_linear.weight", (2**23, 128)),
        ("extra", (2**31,)),
    ],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_views_of_one_number_are_refused_before_they_take_memory(file: Path, name: str, size: tuple[int, ...], legacy: bool) -> None:
    content = weights() | {name: torch.zeros(1).as_strided(size, (0,) * len(size))}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    before = peak()
    with pytest.raises(CheckpointError, match=r"Expected weights of at most 2 times the \d+ bytes of .*, got tensors that take \d+ bytes"):
        load_checkpoint(file)
    assert peak() - before < 200


def rezipped(content: dict[Any, Any], file: Path, compression: int) -> None:
    plain = io.BytesIO()
    torch.save(content, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(file, "w", compression) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_compressed_storages_are_refused_before_they_are_decompressed(file: Path, compression: int) -> None:
    rezipped(weights() | {"conv1.weight": torch.zeros(16, 2**19)}, file, compression)
    before = peak()
    with pytest.raises(CheckpointError, match=r"Expected a checkpoint of at most 2 times its file's \d+ bytes when decompressed, got \d+"):
        load_checkpoint(file)
    assert peak() - before < 30


def test_weights_that_hardly_compress_are_read_from_a_compressed_archive(file: Path) -> None:
    rezipped(weights(), file, zipfile.ZIP_DEFLATED)
    assert torch.equal(load_checkpoint(file).conv1.weight, weights()["conv1.weight"])


def test_a_shape_that_needs_a_larger_network_takes_no_memory(file: Path) -> None:
    torch.save(weights() | {"actor_linear.weight": torch.zeros(2**22, 1)}, file)  # a layer of it would take 2 GiB
    before = peak()
    with pytest.raises(CheckpointError, match="do not fit AtariLSTM"):
        load_checkpoint(file)
    assert peak() - before < 200


class Grows:
    """Unpickled, a gigabyte of zeros."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (2**30,)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pickle_that_makes_large_objects_is_refused(file: Path, legacy: bool) -> None:
    torch.save({"model": weights(), "extra": Grows()}, file, _use_new_zipfile_serialization=not legacy)
    before = peak()
    with pytest.raises(UnsafeCheckpointError, match=r"holds more than weights \(bytearray\)"):
        load_checkpoint(file)
    assert peak() - before < 200


def test_a_file_beyond_the_limit_is_not_read(file: Path) -> None:
    for path in (file, file.with_suffix(".safetensors")):
        with path.open("wb") as sparse:
            sparse.truncate(100 * 2**30)
        with pytest.raises(CheckpointError, match=rf"at most {LARGEST_CHECKPOINT} bytes, got {100 * 2**30} bytes"):
            load_checkpoint(path)


def test_a_record_of_fewer_bytes_than_its_tensor_is_corrupt(file: Path) -> None:
    numbers = 2**20

    class Storage:
        pass

    class Beyond:
        def __reduce__(self) -> tuple[Any, ...]:
            parts = (Storage, 0, (numbers,), (1,), False, collections.OrderedDict())
            return torch._utils._rebuild_tensor_v2, parts  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", numbers) if obj is Storage else None

    pickled = io.BytesIO()
    Pickler(pickled, 2).dump({"conv1.weight": Beyond()})
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (("data.pkl", pickled.getvalue()), ("version", b"3\n"), ("byteorder", b"little"), ("data/0", bytes(16))):
            archive.writestr(f"model/{name}", content)
    with pytest.raises(CheckpointError, match="corrupt, cut short or no PyTorch checkpoint"):
        load_checkpoint(file)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "change",
    [
        lambda: {7: torch.zeros(2)},
        lambda: {None: torch.zeros(2)},
        lambda: {("a", "b"): torch.zeros(2)},
        lambda: {"conv1.weight": torch.quantize_per_tensor(weights()["conv1.weight"], 0.1, 0, torch.qint8)},
        lambda: {"conv1.bias": torch.zeros(16, dtype=torch.uint8).view(torch.bits8)},
        lambda: {f"name {number}": torch.zeros(1) for number in range(2000)},
    ],
    ids=["number as name", "None as name", "tuple as name", "quantized", "bits", "many"],
)
def test_what_no_network_can_hold_is_a_checkpoint_error(file: Path, change: Any) -> None:
    torch.save(weights() | change(), file)
    with pytest.raises(CheckpointError):
        load_checkpoint(file)


@pytest.mark.parametrize("dtype", ["F4", "OBJ", "F8_E8M0", "C64"])
def test_safetensors_of_an_unusable_type_are_a_checkpoint_error(tmp_path: Path, dtype: str) -> None:
    header = f'{{"a":{{"dtype":"{dtype}","shape":[16],"data_offsets":[0,8]}}}}'.encode()
    path = tmp_path / "agent.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


def test_a_checkpoint_of_many_tensors_is_refused(file: Path) -> None:
    torch.save({f"k{number}": torch.zeros(1) for number in range(5000)}, file)
    with pytest.raises(CheckpointError, match=r"at most 4096 entries, got 50\d\d"):
        load_checkpoint(file)


def test_a_pickle_of_many_operations_is_refused(file: Path) -> None:
    file.write_bytes(b"\x80\x02" + b"(" * 5_000_000 + b".")
    with pytest.raises(CheckpointError, match="at most 1000000 pickled operations"):
        load_checkpoint(file)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": {"dtype": "F32", "shape": [1] * 100_000 + [2], "data_offsets": [0, 8]}}, "at most 8 dimensions, got 100001"),
        (
            {f"{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(5000)},
            "at most 4096 tensors, got 5000",
        ),
        ([], "corrupt or no safetensors file"),
    ],
    ids=["dimensions", "tensors", "list"],
)
def test_safetensors_headers_are_bounded(tmp_path: Path, header: Any, message: str) -> None:
    content = json.dumps(header).encode()
    path = tmp_path / "agent.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(8))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "strong.50.pt")
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "strong.50.pt")
    torch.save(weights(), tmp_path / "strong.4.pt")
    assert isinstance(load_checkpoint(tmp_path), AtariLSTM)


def test_loading_leaves_the_random_numbers_of_the_process_as_they_are(tmp_path: Path) -> None:
    safetensors.torch.save_file(weights(), tmp_path / "agent.safetensors")
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    load_checkpoint(tmp_path / "agent.safetensors")
    assert torch.equal(torch.rand(3), expected)
