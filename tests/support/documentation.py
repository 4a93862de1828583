"""The pages of the documentation, and how their code is run in tests: with small budgets, in a folder of its own."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from textwrap import dedent

from code_blocks import CodeBlock, read_blocks

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").rglob("*.md") if "reference" not in page.parts)]

BUDGETS = {
    "README.md": {
        "range(300)": "range(3)",
        "1_000_000": "16",
        "50_000": "16",
        "n_jobs=8": "n_jobs=1",
        "num_envs=8": "num_envs=2",
        "\n...\n": "\nplay(env, hook)\n",
        "model((x, state))  # your line, as it was": "[x := first_input(env), model((x, state))][1]",
        "maps(639, 1240)": "maps(1, 3)",
    },
    "index.md": {"range(300)": "range(3)"},
    "quickstart.md": {"range(200)": "range(3)", "range(50)": "range(2)"},
    "gymnasium.md": {"steps=150": "steps=8", "step % 50": "step % 4", "step == 100": "step == 4", "video_length=40": "video_length=3"},
    "vectors.md": {"range(60)": "range(8)", "step % 20": "step % 4", "step == 20": "step == 4", "video_length=10": "video_length=3"},
    "sb3.md": {"range(40)": "range(3)", "max_steps=20": "max_steps=2", "eval_freq=50": "eval_freq=64", "step % 50": "step % 64"},
    "sb3-contrib.md": {"max_steps=10": "max_steps=2", "range(20)": "range(3)"},
    "cleanrl.md": {"range(30)": "range(12)"},
    "viewer.md": {"viewer.wait()": "viewer.close()"},
    "vector-observations.md": {'"CartPole-v1").learn(50_000)': '"CartPole-v1", n_steps=64, batch_size=64).learn(64)'},
    "faithfulness.md": {"spaced(decisions, 100)": "spaced(decisions, 2)"},
    "gallery.md": {
        "DECISIONS, MOMENT = 1100, 1035": "DECISIONS, MOMENT = 30, 20",
        "step == 975": "step == 4",
        "video_length=120": "video_length=2",
        "step == 60": "step == 4",
        "video_length=90": "video_length=2",
        "hook, 160, seed=1": "hook, 9, seed=1",
        "step == 20": "step == 4",
        "video_length=60": "video_length=2",
        "hook, 90)": "hook, 9)",
        "step == 30": "step == 2",
        "video_length=45": "video_length=2",
        "range(80)": "range(6)",
        "stored[100:1000:15]": "stored[10:20:5]",
        "stored[940:1090:3]": "stored[10:20:5]",
        "stored[940:1090:5]": "stored[10:20:5]",
        "stored[990:1054]": "stored[10:14]",
        "stride=(2, 2)": "stride=(16, 16)",
        "n=500": "n=20",
        "stored[::50]": "stored[::5]",
    },
}
"""By the names of pages: what is written there for users, and what stands in its place in tests. Each has to occur."""

PRELUDES = {
    "README.md": {
        "tells where a map lies on the frame": """
            model, preprocessor = load_pretrained("ALE/Breakout-v5")
            env = gym.make("ALE/Breakout-v5", render_mode="rgb_array")
            state = model.initial_state(1)
            def first_input(env):
                return torch.as_tensor(preprocessor(env.reset(seed=0)[0]))[None]
        """,
        "model = RecurrentPPO(": """
            def make():
                game = gym.make("ALE/Breakout-v5", frameskip=1, render_mode="rgb_array", max_episode_steps=12)
                return gym.wrappers.AtariPreprocessing(game, noop_max=0, grayscale_newaxis=True)
            env, eval_env = make(), make()
            RecurrentPPO = functools.partial(
                sb3_contrib.RecurrentPPO, n_steps=16, batch_size=16, n_epochs=1, policy_kwargs={"lstm_hidden_size": 8}
            )
        """,
        "envs = AtariVectorEnv": """
            from ale_py.vector_env import AtariVectorEnv
        """,
        'mode="capture", store="runs/store"': """
            hook = RecurrentAgentHook(agent)
            env = gym.make("ALE/Breakout-v5")
            env = gym.wrappers.TransformObservation(env, lambda o: FramePreprocessor.named("greydanus2018")(o), None)
        """,
    },
    "viewer.md": {
        "view(": """
            hook = RecurrentAgentHook(*load_pretrained("ALE/Breakout-v5"))
            agent = hook.adapter.module
            play(SaliencyRecorder(gym.make("ALE/Breakout-v5"), hook, store="runs/breakout"), hook)
        """,
        "with Viewer(env)": """
            hook, env = RecurrentAgentHook(agent), gym.make("ALE/Breakout-v5", render_mode="rgb_array")
        """,
    },
    "faithfulness.md": {
        "evaluate(": """
            hook = RecurrentAgentHook(*load_pretrained("ALE/Breakout-v5"))
            adapter = hook.adapter
            play(SaliencyRecorder(gym.make("ALE/Breakout-v5"), hook, mode="capture", store="runs/decisions"), hook, 30)
            decisions = [one.decision for one in EpisodeStore.open("runs/decisions").episodes[0].decisions()]
        """,
    },
}
"""By the names of pages, and by what a block contains: the code that a fragment takes for granted."""

IMPORTS = """
import functools
import ale_py
import gymnasium as gym
import sb3_contrib
import torch
from saliency_wrappers import *

gym.register_envs(ale_py)

def play(env, hook, steps=4):
    observation, _ = env.reset(seed=0)
    for _ in range(steps):
        observation, *_ = env.step(hook.act(observation))
    env.close()
"""
"""What preludes use."""

COMMANDS = {
    "--steps 600 --output runs/demo": "--steps 4 --output runs/demo",
    "--start 639 --end 1240 --mode deferred --png 700": "--start 1 --end 4 --mode deferred --png 2 --steps 5",
    "record ALE/Breakout-v5 --live": "record ALE/Breakout-v5 --steps 4 --live",
    "record ALE/Breakout-v5 --store": "record ALE/Breakout-v5 --steps 24 --store",
    "--seed 2 --steps 1500 --store": "--seed 2 --steps 24 --store",
    "--seed 1 --decisions 150 --output": "--seed 1 --decisions 2 --output",
    "--seed 1 --start 40 --decisions 80": "--seed 1 --start 2 --decisions 2",
    "evaluate runs/store": "evaluate runs/store --decisions 2 --resamples 10",
    "compute runs/store --backend loky": "compute runs/store --backend loky --jobs 1",
}
"""What pages tell users to run, and the same with small budgets."""


def python_blocks(page: Path) -> list[CodeBlock]:
    """The Python blocks of a page, with small budgets; without those that show what a structure contains."""
    blocks = [block for block in read_blocks(page, "python") if "ndarray float32" not in block.text]
    changes = BUDGETS.get(page.name, {})
    whole = "\n".join(block.text for block in blocks)
    missing = [text for text in changes if text not in whole]
    assert not missing, f"{page.name} has no {missing} any more: change BUDGETS."
    return [CodeBlock(block.page, block.line, block.language, _replaced(block.text, changes)) for block in blocks]


def prelude(block: CodeBlock) -> str:
    """The code that a block takes for granted; empty for most."""
    return "".join(dedent(code) for part, code in PRELUDES.get(block.page.name, {}).items() if part in block.text)


def _replaced(text: str, changes: dict[str, str]) -> str:
    for written, tested in changes.items():
        text = text.replace(written, tested)
    return text


def commands(page: Path) -> list[list[str]]:
    """The commands of a page's console blocks, as words without comments."""
    blocks = [block for block in read_blocks(page) if block.language in ("console", "bash")]
    lines = [_replaced(line.removeprefix("$ "), COMMANDS) for block in blocks for line in block.text.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def words_of_source() -> str:
    """Every string of the package's source, and every part of those that hold values, each on a line."""
    found: list[str] = []
    for file in (ROOT / "src").rglob("*.py"):
        nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        found += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(found)


def words_of_message(message: str) -> list[str]:
    """The parts of a message as a user sees it that cannot be values: what is between numbers, brackets, quotes and dots."""
    parts = re.split(r"[\d()\[\]'\"]+|\.\.\.|[.:] ", message)
    return [part.strip(" .") for part in parts if len(part.strip(" .")) >= 8]
