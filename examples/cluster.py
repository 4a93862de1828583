"""The same maps on this machine's processes, on a Dask cluster and on a Ray cluster: `python examples/cluster.py [steps]`.

Recording computes nothing. The maps come later, wherever there are processors: each worker opens the store itself, reads a block of
decisions and writes its maps beside them. Run it again: nothing is done twice.
"""

import sys
from typing import Any

import ale_py
import gymnasium as gym

from saliency_wrappers import EpisodeStore, PerturbationSaliency, RecurrentAgentHook, SaliencyRecorder, compute_saliency, load_pretrained

ENV_ID = "ALE/Breakout-v5"
STORE = "runs/cluster"
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200


def record() -> None:
    """One episode, every decision of it, into the store."""
    gym.register_envs(ale_py)
    agent, preprocessor = load_pretrained(ENV_ID)
    hook = RecurrentAgentHook(agent, preprocessor)
    env = gym.make(ENV_ID, max_episode_steps=steps)
    with SaliencyRecorder(env, hook, mode="capture", store=STORE) as recorder:
        observation, _ = recorder.reset(seed=1)
        ended = False
        while not ended:
            observation, _, terminated, truncated, _ = recorder.step(hook.act(observation))
            ended = terminated or truncated


def compute(tolerance: float, **where: Any) -> None:
    """The maps of the store's last episode; a tolerance of its own, here, so that each backend has something to do."""
    agent, _ = load_pretrained(ENV_ID)
    method = PerturbationSaliency(tolerance=tolerance)
    done = compute_saliency(STORE, agent, method=method, episodes=[-1], n_jobs=2, **where)
    print(f"{where}: {done.explained} decisions explained, {done.reused} had their maps already")


def main() -> None:
    """Record once, compute three times."""
    import ray
    from distributed import LocalCluster

    record()
    compute(0.0, backend="loky")
    local: Any = LocalCluster  # its types say less than it takes
    with local(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        compute(1e-9, backend="dask", address=cluster.scheduler_address)
    ray.init(num_cpus=2, include_dashboard=False)
    compute(2e-9, backend="ray")
    ray.shutdown()
    print(EpisodeStore.open(STORE).episodes[-1])


if __name__ == "__main__":  # loky's and Dask's workers import this file
    main()
