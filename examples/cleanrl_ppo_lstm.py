"""PPO with an LSTM on Atari, in the manner of CleanRL's `ppo_atari_lstm.py`: one file, and what the agent looks at in each evaluation.

    python examples/cleanrl_ppo_lstm.py --game breakout --total-timesteps 1000000 --output runs/cleanrl

Nothing in the agent knows of saliency. `evaluate` hooks it in one line and films an episode; the training goes on undisturbed.
"""

import argparse
import random
import time
from pathlib import Path

import ale_py
import gymnasium as gym
import numpy as np
import torch
from ale_py.vector_env import AtariVectorEnv
from torch import Tensor, nn
from torch.distributions import Categorical

from saliency_wrappers import RecordSaliencyVideo, RecurrentAgentHook, SaliencyRecorder

LSTMState = tuple[Tensor, Tensor]

gym.register_envs(ale_py)


def parse_args() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="Train a recurrent PPO agent and film what it looks at.")
    parser.add_argument("--game", default="breakout", help="as ALE names it")
    parser.add_argument("--env-id", default="ALE/Breakout-v5", help="the same game in Gymnasium, for the evaluation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--total-timesteps", type=int, default=1_000_000)
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--num-steps", type=int, default=128)
    parser.add_argument("--num-minibatches", type=int, default=4)
    parser.add_argument("--update-epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2.5e-4)
    parser.add_argument("--gamma", type=float, default=0.99)
    parser.add_argument("--gae-lambda", type=float, default=0.95)
    parser.add_argument("--clip-coef", type=float, default=0.1)
    parser.add_argument("--ent-coef", type=float, default=0.01)
    parser.add_argument("--vf-coef", type=float, default=0.5)
    parser.add_argument("--max-grad-norm", type=float, default=0.5)
    parser.add_argument("--evaluate-every", type=int, default=100, help="in updates")
    parser.add_argument("--evaluation-steps", type=int, default=500)
    parser.add_argument("--output", type=Path, default=Path("runs/cleanrl"))
    return parser.parse_args()


def layer_init(layer: nn.Linear | nn.Conv2d, std: float = 2**0.5) -> nn.Module:
    """Orthogonal weights, no bias."""
    nn.init.orthogonal_(layer.weight, std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Agent(nn.Module):
    """CleanRL's recurrent agent: convolutions, an LSTM, and two heads."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            layer_init(nn.Conv2d(1, 32, 8, stride=4)),
            nn.ReLU(),
            layer_init(nn.Conv2d(32, 64, 4, stride=2)),
            nn.ReLU(),
            layer_init(nn.Conv2d(64, 64, 3, stride=1)),
            nn.ReLU(),
            nn.Flatten(),
            layer_init(nn.Linear(64 * 7 * 7, 512)),
            nn.ReLU(),
        )
        self.lstm = nn.LSTM(512, 128)
        for name, parameter in self.lstm.named_parameters():
            nn.init.zeros_(parameter) if "bias" in name else nn.init.orthogonal_(parameter, 1.0)
        self.actor = layer_init(nn.Linear(128, num_actions), std=0.01)
        self.critic = layer_init(nn.Linear(128, 1), std=1)

    def get_states(self, x: Tensor, lstm_state: LSTMState, done: Tensor) -> tuple[Tensor, LSTMState]:
        """What the LSTM makes of `(time * n, 1, 84, 84)` images in 0..255; `done` is 1 where an episode begins."""
        hidden = self.network(x / 255.0)
        batch_size = lstm_state[0].shape[1]
        hidden = hidden.reshape((-1, batch_size, self.lstm.input_size))
        done = done.reshape((-1, batch_size))
        new_hidden = []
        for h, d in zip(hidden, done, strict=True):
            kept = (1.0 - d).view(1, -1, 1)
            h, lstm_state = self.lstm(h.unsqueeze(0), (kept * lstm_state[0], kept * lstm_state[1]))
            new_hidden += [h]
        return torch.flatten(torch.cat(new_hidden), 0, 1), lstm_state

    def get_value(self, x: Tensor, lstm_state: LSTMState, done: Tensor) -> Tensor:
        """The critic alone."""
        hidden, _ = self.get_states(x, lstm_state, done)
        value: Tensor = self.critic(hidden)
        return value

    def get_action_and_value(
        self, x: Tensor, lstm_state: LSTMState, done: Tensor, action: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, LSTMState]:
        """Act, or score a given action: action, its log-probability, entropy, value, next state."""
        hidden, lstm_state = self.get_states(x, lstm_state, done)
        probs = Categorical(logits=self.actor(hidden))
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action), probs.entropy(), self.critic(hidden), lstm_state

    def initial_lstm_state(self, n: int) -> LSTMState:
        """Zeros for n environments."""
        return torch.zeros(self.lstm.num_layers, n, 128), torch.zeros(self.lstm.num_layers, n, 128)


@torch.no_grad()
def evaluate(agent: Agent, args: argparse.Namespace, global_step: int) -> float:
    """Play one episode in a game of its own and film what the agent looks at; its score."""
    env = gym.make(args.env_id, frameskip=1, render_mode="rgb_array")
    env = gym.wrappers.TimeLimit(gym.wrappers.AtariPreprocessing(env), args.evaluation_steps)
    hook = RecurrentAgentHook(agent, preprocessor="atari84")
    env = SaliencyRecorder(env, hook, on_error="warn")
    env = RecordSaliencyVideo(env, args.output / "videos", name_prefix=f"saliency-{global_step:08d}", zoom=2, strip=True)
    observation, _ = env.reset(seed=args.seed)
    lstm_state, done, score, ended = agent.initial_lstm_state(1), torch.ones(1), 0.0, False
    while not ended:
        action, _, _, _, lstm_state = agent.get_action_and_value(torch.tensor(observation)[None, None].float(), lstm_state, done)
        observation, reward, terminated, truncated, _ = env.step(int(action))
        ended = terminated or truncated
        done = torch.tensor([float(ended)])
        score += float(reward)
    env.close()
    return score


class Rollout:
    """What happened in `num_steps` steps of `num_envs` environments; every tensor is `(num_steps, num_envs, ...)`."""

    def __init__(self, args: argparse.Namespace, observation_shape: tuple[int, ...], lstm_state: LSTMState) -> None:
        self.obs = torch.zeros((args.num_steps, args.num_envs, *observation_shape))
        self.actions, self.logprobs, self.rewards, self.dones, self.values = (
            torch.zeros((args.num_steps, args.num_envs)) for _ in range(5)
        )
        self.initial_lstm_state = (lstm_state[0].clone(), lstm_state[1].clone())


class Games:
    """The environments, and what the agent is to be given next."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.envs = AtariVectorEnv(
            args.game,
            args.num_envs,
            stack_num=1,  # one frame: which way the ball flies, the agent has to remember
            noop_max=30,
            reward_clipping=True,
            autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
        )
        self.agent = Agent(gym.spaces.flatdim(self.envs.single_action_space))
        self.next_obs = torch.tensor(self.envs.reset(seed=args.seed)[0]).float()
        self.next_done = torch.ones(args.num_envs)
        self.next_lstm_state = self.agent.initial_lstm_state(args.num_envs)


@torch.no_grad()
def collect(games: Games, args: argparse.Namespace) -> Rollout:
    """Play `num_steps` steps in every environment."""
    rollout = Rollout(args, tuple(games.next_obs.shape[1:]), games.next_lstm_state)
    for step in range(args.num_steps):
        rollout.obs[step], rollout.dones[step] = games.next_obs, games.next_done
        action, logprob, _, value, games.next_lstm_state = games.agent.get_action_and_value(
            games.next_obs, games.next_lstm_state, games.next_done
        )
        rollout.actions[step], rollout.logprobs[step], rollout.values[step] = action, logprob, value.flatten()
        frames, reward, terminations, truncations, _ = games.envs.step(action.numpy())
        rollout.rewards[step] = torch.tensor(reward).view(-1)
        games.next_obs, games.next_done = torch.tensor(frames).float(), torch.tensor(terminations | truncations).float()
    return rollout


@torch.no_grad()
def estimate_advantages(games: Games, rollout: Rollout, args: argparse.Namespace) -> Tensor:
    """Generalised advantage estimation, `(num_steps, num_envs)`."""
    next_value = games.agent.get_value(games.next_obs, games.next_lstm_state, games.next_done).flatten()
    advantages, lastgaelam = torch.zeros_like(rollout.rewards), torch.zeros(args.num_envs)
    for t in reversed(range(args.num_steps)):
        last = t == args.num_steps - 1
        nextnonterminal = 1.0 - (games.next_done if last else rollout.dones[t + 1])
        nextvalues = next_value if last else rollout.values[t + 1]
        delta = rollout.rewards[t] + args.gamma * nextvalues * nextnonterminal - rollout.values[t]
        advantages[t] = lastgaelam = delta + args.gamma * args.gae_lambda * nextnonterminal * lastgaelam
    return advantages


def compute_loss(agent: Agent, rollout: Rollout, advantages: Tensor, mbenvinds: np.ndarray, args: argparse.Namespace) -> Tensor:
    """PPO's loss over whole environments, so that the LSTM can be run through time."""
    h, c = rollout.initial_lstm_state
    state = (h[:, mbenvinds], c[:, mbenvinds])
    obs, dones, actions, logprobs, values = (
        part[:, mbenvinds].flatten(0, 1) for part in (rollout.obs, rollout.dones, rollout.actions, rollout.logprobs, rollout.values)
    )
    mb_advantages = advantages[:, mbenvinds].flatten()
    returns = mb_advantages + values
    _, newlogprob, entropy, newvalue, _ = agent.get_action_and_value(obs, state, dones, actions.long())
    ratio = (newlogprob - logprobs).exp()
    mb_advantages = (mb_advantages - mb_advantages.mean()) / (mb_advantages.std() + 1e-8)
    pg_loss = torch.max(-mb_advantages * ratio, -mb_advantages * ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)).mean()
    v_loss = 0.5 * ((newvalue.view(-1) - returns) ** 2).mean()
    loss: Tensor = pg_loss - args.ent_coef * entropy.mean() + args.vf_coef * v_loss
    return loss


def update(agent: Agent, optimizer: torch.optim.Optimizer, rollout: Rollout, advantages: Tensor, args: argparse.Namespace) -> float:
    """Improve the agent on one rollout; the last loss."""
    loss = torch.zeros(())
    for _ in range(args.update_epochs):
        for mbenvinds in np.array_split(np.random.permutation(args.num_envs), args.num_minibatches):  # noqa: NPY002
            loss = compute_loss(agent, rollout, advantages, mbenvinds, args)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
            optimizer.step()
    return loss.item()


def main() -> None:
    """Collect, estimate advantages, update; evaluate now and then."""
    args = parse_args()
    random.seed(args.seed)
    np.random.seed(args.seed)  # noqa: NPY002
    torch.manual_seed(args.seed)
    games = Games(args)
    optimizer = torch.optim.Adam(games.agent.parameters(), lr=args.learning_rate, eps=1e-5)
    num_iterations = max(args.total_timesteps // (args.num_envs * args.num_steps), 1)
    start_time = time.time()
    for iteration in range(1, num_iterations + 1):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1.0 - (iteration - 1.0) / num_iterations)
        rollout = collect(games, args)
        loss = update(games.agent, optimizer, rollout, estimate_advantages(games, rollout, args), args)
        global_step = iteration * args.num_envs * args.num_steps
        print(f"{global_step} steps, {global_step / (time.time() - start_time):.0f}/s, loss {loss:.4f}")
        if iteration % args.evaluate_every == 0 or iteration == num_iterations:
            print(f"evaluation after {global_step} steps: score {evaluate(games.agent, args, global_step):.0f}")
    games.envs.close()
    torch.save(games.agent.state_dict(), args.output / "agent.pt")


if __name__ == "__main__":
    main()
