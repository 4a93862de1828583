"""The training script: it learns a little, films what the agent looks at, is interrupted and goes on."""

import subprocess
import sys
from pathlib import Path

import torch
from tiny_agents import seeded

from saliency_wrappers import load_checkpoint
from saliency_wrappers.models.networks import AtariLSTM

SCRIPT = Path(__file__).parents[2] / "examples" / "train_ppo_lstm.py"
OPTIONS = ["--environments", "4", "--threads", "1", "--evaluate-every", "256", "--max-decisions", "8"]


def train(folder: Path, steps: int, *options: str) -> str:
    command = [sys.executable, str(SCRIPT), "--output", str(folder), "--steps", str(steps), *OPTIONS, *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder.parent).stdout


def test_a_run_trains_evaluates_films_and_a_second_one_goes_on_where_it_ended(tmp_path):
    folder = tmp_path / "run"
    first = train(folder, 256)
    assert "evaluation after 256 steps" in first
    assert [file.name for file in (folder / "videos").iterdir()] == ["saliency-000000256-episode-0.mp4"]
    assert isinstance(load_checkpoint(folder / "agent.256.pt"), AtariLSTM)
    second = train(folder, 512)
    assert "evaluation after 512 steps" in second
    assert "256 steps  " not in second
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["steps"] == 512
    trained = load_checkpoint(folder / "agent.safetensors").state_dict()
    begun = load_checkpoint(folder / "agent.256.pt").state_dict()
    assert any(not torch.equal(trained[name], begun[name]) for name in trained)


def test_a_run_can_begin_with_the_weights_of_another(tmp_path):
    initial = tmp_path / "initial.pt"
    torch.save(seeded(AtariLSTM, 4).state_dict(), initial)
    train(tmp_path / "run", 1, "--initial", str(initial))
    begun = load_checkpoint(tmp_path / "run" / "agent.safetensors").state_dict()
    for name, weight in load_checkpoint(initial).state_dict().items():
        torch.testing.assert_close(begun[name], weight, rtol=0, atol=0.05)
