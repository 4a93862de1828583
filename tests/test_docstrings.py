"""Docstrings: their examples run, every public name has one, and those with arrays tell the shapes."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import inspect
import re
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_atari_env
from torch import Tensor, nn
from xaitk_saliency import GenerateClassifierConfidenceSaliency

import saliency_wrappers
from saliency_wrappers import (
    FramePreprocessor,
    PerturbationSaliency,
    RecordSaliencyVideo,
    RecordVectorSaliencyVideo,
    RecurrentModuleAdapter,
    SaliencyRecorder,
    SquaredDifference,
)
from saliency_wrappers.testing import TinyAgent
from saliency_wrappers.testing.contract import Contract
from saliency_wrappers.video.writer import StreamingWriter
from saliency_wrappers.viewer.server import Viewer

SOURCE = Path(saliency_wrappers.__file__).parent
MODULES = [f"saliency_wrappers{name}" for name in ("", ".agents", ".faithfulness", ".models", ".sb3", ".testing")]
ARRAY = re.compile(r"\b(Tensor|NDArray|ndarray|Array|Frame|Floats|Segments)\b")
SHAPE = re.compile(r"`[^`]*\([^`()]*,[^`()]*\)[^`]*`|`\(n,\)`|\([^()]*,[^()]*\)|shape")

gym.register_envs(ale_py)


# Examples


@dataclasses.dataclass(frozen=True)
class Example:
    """A block of code in a docstring."""

    name: str
    code: str

    def __str__(self) -> str:
        return self.name


def examples() -> Iterator[Example]:
    """The blocks of code in docstrings: indented ones that are statements, and those with `>>>`."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) or not (text := ast.get_docstring(node)):
                continue
            name = f"{path.relative_to(SOURCE).as_posix()}:{getattr(node, 'name', 'module')}"
            assert "doctest: +SKIP" not in text, f"{name} has an example that never runs"
            if found := doctest.DocTestParser().get_examples(text):
                yield Example(name, "".join(one.source for one in found))
            yield from (Example(name, code) for code in literal_blocks(text) if is_program(code))


def literal_blocks(text: str) -> Iterator[str]:
    """The indented paragraphs that stand by themselves."""
    for block in re.findall(r"\n\n((?:(?:    [^\n]*)?\n)+)", text + "\n"):
        yield textwrap.dedent(block).strip() + "\n"


def is_program(code: str) -> bool:
    """Whether a block is a program, and not the content of an `info`: a comparison, or entries of a dictionary."""
    return not re.match(r'\S*infos?(\[\w+\])?\["|["}]', code)


EXAMPLES = list(examples())


class LearningAgent(TinyAgent):
    """Learns nothing, in no time."""

    def learn(self, total_timesteps: int, callback: Any = None) -> None:
        assert total_timesteps > 0


class Remembering(nn.Module):
    """`agent(x, state)` gives logits, a value and the next state `(n, 256)`."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.actor, self.critic = nn.Linear(36, 256), nn.Linear(256, 3), nn.Linear(256, 1)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = torch.tanh(0.5 * state + self.see(x.flatten(1) / 255))
        return self.actor(state), self.critic(state)[:, 0], state


def loop(env: Any, agent: TinyAgent) -> None:
    """Play a few steps, as examples leave it to their readers."""
    preprocessor, state = FramePreprocessor.named("greydanus2018"), None
    frame, _ = env.reset(seed=0)
    for _ in range(3):
        with torch.no_grad():
            _, logits, state = agent((torch.as_tensor(preprocessor(frame))[None], state))
        frame, *_ = env.step(int(logits.argmax()))
    env.close()


def known_names(example: Example) -> dict[str, Any]:
    """What an example takes for granted: all that is public, an agent of 80x80 inputs and its game."""
    public = {name: getattr(module, name) for module in map(importlib.import_module, MODULES) for name in module.__all__}
    agent = LearningAgent(4, size=(80, 80), seed=0)
    generator, memory = torch.Generator().manual_seed(0), [torch.zeros(1, 256)]
    remembering = Remembering()

    def play(x: Tensor) -> None:
        *_, memory[0] = remembering(x, memory[0])

    given = {
        "agent": remembering if example.name.endswith("FunctionAdapter") else agent,
        "model": agent,
        "hook": public["RecurrentAgentHook"](agent, preprocessor="greydanus2018"),
        "env": gym.make("ALE/Breakout-v5", render_mode="rgb_array"),
        "inputs": 255 * torch.rand(3, 1, 6, 6, generator=generator),
        "play": play,
        "loop": lambda env: loop(env, agent),
        "frame": np.zeros((16, 16, 3), np.uint8),
        "PPO": lambda policy, env: LearningAgent(4, size=(84, 84), seed=0),
        "MyAgent": lambda: TinyAgent(size=(84, 84), seed=0),
        "MyAdapter": RecurrentModuleAdapter,
        "MyMethod": PerturbationSaliency,
        "MyScores": SquaredDifference,
    }
    others = (GenerateClassifierConfidenceSaliency, RecordVectorSaliencyVideo, StreamingWriter, Tensor, make_atari_env, Viewer)
    return public | {one.__name__: one for one in others} | {"gym": gym, "np": np, "torch": torch} | given


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_runs(example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    code = re.sub(r"^( *)\.\.\.( *#.*)?$", r"\1loop(env)", example.code, flags=re.MULTILINE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = known_names(example)
        exec(compile(code, example.name, "exec"), known)
    for one in known.values():
        if isinstance(one, Contract):
            one.check()
        elif isinstance(one, type) and issubclass(one, Contract) and one.__name__.startswith("Test"):
            one().check()
        elif isinstance(one, SaliencyRecorder | RecordSaliencyVideo):
            one.close()


def test_the_examples_are_found():
    assert {example.name.split(":")[1] for example in EXAMPLES} >= {
        "SaliencyRecorder",
        "RecurrentAgentHook",
        "EpisodeStore",
        "FunctionAdapter",
    }


# Names


@pytest.mark.parametrize("name", MODULES)
def test_all_is_complete(name: str):
    module = importlib.import_module(name)
    public = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and callable(value) and getattr(value, "__module__", "").startswith("saliency_wrappers")
    }
    lazy = set(getattr(module, "_LAZY", ()))
    assert public - lazy - set(module.__all__) == set()
    assert all(hasattr(module, key) for key in module.__all__)
    assert list(module.__all__) == sorted(module.__all__, key=lambda key: (not key.isupper(), key[0].islower(), key))


def public_functions() -> Iterator[Any]:
    """Every public function, method and property of every public name, with the docstring of its class."""
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            one = getattr(module, name)
            if not inspect.isclass(one):
                if inspect.isfunction(one):
                    yield pytest.param(one, "", id=name)
                continue
            yield pytest.param(one, "", id=name)
            for key, member in vars(one).items():
                function = getattr(member, "fget", None) or getattr(member, "__func__", member)
                # The fields of a dataclass have docstrings of their own, and a protocol is not constructed.
                made = key == "__init__" and (dataclasses.is_dataclass(one) or getattr(one, "_is_protocol", False))
                if inspect.isfunction(function) and (not key.startswith("_") or key == "__init__") and not made:
                    yield pytest.param(function, inspect.getdoc(one) or "", id=f"{name}.{key}")


@pytest.mark.parametrize(("one", "of_class"), list(public_functions()))
def test_every_public_name_has_a_docstring_with_the_shapes_of_arrays(one: Any, of_class: str):
    text = inspect.getdoc(one) or (of_class if one.__name__ == "__init__" else "")
    assert text, "no docstring"
    first = text.partition("\n\n")[0]
    assert first.rstrip().endswith((".", ":", "`", "::")), f"the first paragraph is a sentence, got {first!r}"
    if inspect.isfunction(one) and any(ARRAY.search(str(kind)) for kind in one.__annotations__.values()):
        assert SHAPE.search(text + of_class), "an array without its shape, such as `(n, C, h, w)`"
