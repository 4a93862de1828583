"""What the policies of Stable-Baselines3 have in common: `PolicyAdapter` takes a policy, its images and their range from an algorithm."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from inspect import BoundArguments
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from saliency_wrappers.agents.base import ImageOptions, OnPass, PolicyForm, is_network_input, repeat_rows
from saliency_wrappers.agents.dict_observation import DictObservation
from saliency_wrappers.agents.image_layout import ImageLayout
from saliency_wrappers.agents.method_hooks import observe_calls
from saliency_wrappers.decisions import AgentPass
from saliency_wrappers.states import StateTree


class PolicyAdapter(ABC):
    """Base class of adapters for policies of Stable-Baselines3. Methods are observed: `predict` does not call `forward`, `learn` may."""

    form = "model.predict(observation) or policy(observation), with images (n, C, h, w) or vectors (n, features)"
    takes_observations = True
    """Its input is the observation as the environment returned it: a pass on anything else is no decision."""
    methods: tuple[str, ...] = ("forward", "get_distribution", "evaluate_actions", "predict_values")
    """The policy's methods that are watched, here those of an actor-critic; a call within another one is part of it."""

    def __init__(
        self,
        policy: nn.Module,
        input_range: tuple[float, float] | None = None,
        image: str | None = None,
        *,
        channels_last: bool | None = None,
    ) -> None:
        """Adapt a policy.

        Args:
            policy: `model.policy`, of an observation space of images, channels first, as the algorithm makes it, of vectors, or of a
                dictionary with one of them. The rest of a dictionary goes with the decision, as part of its state.
            input_range: the lowest and highest value of its images. None: those of the observation space; for vectors `(0.0, 1.0)`.
            image: the key of the image in a dictionary, without images of a vector. None: its only one.
            channels_last: whether its images are `(n, h, w, C)`. None: as its first convolution tells, see `ImageLayout`.

        Raises:
            TypeError: a policy that looks at neither images nor vectors.
            ValueError: an observation space without bounds and no `input_range`; a dictionary with several images and no `image`.
        """
        self.module = policy
        self.layout = ImageLayout(policy, channels_last)
        space: Any = policy.observation_space
        self.parts = _parts_of(space, image) if isinstance(space, spaces.Dict) else None
        images = space if self.parts is None else space[self.parts.image]
        self.input_range = _image_range(images) if input_range is None else input_range

    @property
    def policy_form(self) -> PolicyForm:
        """`"logits"` of one discrete action, `"gaussian"`, or `"numbers"` for several discrete parts."""
        space: Any = self.module.action_space
        if isinstance(space, spaces.Discrete):
            return "logits"
        return "gaussian" if isinstance(space, spaces.Box) else "numbers"

    @abstractmethod
    def evaluate(self, inputs: Tensor, state: StateTree, episode_start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Run the policy once, as `AgentAdapter.evaluate`."""

    @property
    def layers(self) -> Mapping[str, nn.Module]:
        """Return the layers whose outputs an adapter needs, by name: the heads of an actor-critic policy."""
        policy: Any = self.module
        return {"actor": policy.action_net, "critic": policy.value_net}

    @abstractmethod
    def entering(self, method: str, call: BoundArguments) -> AgentPass | None:
        """Return the pass before it runs. None for a call without images."""

    @abstractmethod
    def leaving(self, method: str, incoming: AgentPass, output: Any, layers: Mapping[str, Any]) -> AgentPass | None:
        """Return the pass with its outputs."""

    def attach(self, on_pass: OnPass) -> Callable[[], None]:
        """Call `on_pass` after every call of the watched methods, until the function that is returned is called."""
        return observe_calls(self.module, self.methods, self, on_pass)

    def initial_state(self, n: int) -> StateTree:
        """Return the state in which n episodes begin: None for policies without memory, an `ObservedState` for dictionary observations."""
        memory = self.initial_memory(n)
        return memory if self.parts is None else self.parts.initial(memory, n)

    def initial_memory(self, n: int) -> StateTree:
        """Return the memory in which n episodes begin. None: no memory."""
        return None

    def repeat_state(self, state: StateTree, n: int) -> StateTree:
        """Repeat each environment's state n times."""
        return repeat_rows(self, state, n)

    def apart(self, call: BoundArguments, memory: StateTree = None) -> tuple[Tensor, StateTree] | None:
        """Return the images `(n, C, h, w)` of a call, by reference, and the state that goes with them. None without images."""
        observation: Any = next(iter(call.arguments.values()), None)
        images, state = (observation, memory) if self.parts is None else self.parts.apart(observation, memory)
        return (self.layout.channels_first(images.detach()), state) if is_network_input(images) else None

    def together(self, inputs: Tensor, state: StateTree) -> tuple[Any, StateTree]:
        """Return the observation to give to the policy, and the memory."""
        images = self.layout.as_given(inputs)
        return (images, state) if self.parts is None else self.parts.together(images, state)


def policy_of(agent: Any) -> nn.Module | None:
    """Return the policy of a Stable-Baselines3 algorithm, or the agent itself if it is a policy; None for anything else."""
    if sys.modules.get("stable_baselines3") is None:  # then nothing can be of it, and it need not be loaded
        return None
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.policies import BasePolicy

    policy = agent.policy if isinstance(agent, BaseAlgorithm) else agent
    policy = getattr(policy, "_orig_mod", policy)  # what torch.compile compiled
    return policy if isinstance(policy, BasePolicy) else None


def policy_options(agent: Any, options: ImageOptions) -> dict[str, Any]:
    """Return the options of `PolicyAdapter` for an algorithm: those that are given, and the range of images that `VecNormalize` makes."""
    given = options.given
    normalised = None if "input_range" in given else _normalised_range(agent, options.image)
    return given if normalised is None else given | {"input_range": normalised}


def _normalised_range(agent: Any, image: str | None) -> tuple[float, float] | None:
    """Return the range that the algorithm's `VecNormalize` clips images to. None where it has none, or leaves images as they are."""
    vector = agent.get_vec_normalize_env() if hasattr(agent, "get_vec_normalize_env") else None
    if vector is None or not vector.norm_obs:
        return None
    space = agent.policy.observation_space
    if isinstance(space, spaces.Dict) and _parts_of(space, image).image not in vector.norm_obs_keys:
        return None
    return -float(vector.clip_obs), float(vector.clip_obs)


def policy_output(policy: Any, head: Tensor) -> Tensor:
    """Return the policy output of the pass that just ran.

    Args:
        policy: an actor-critic policy.
        head: what its `action_net` gave, `(n, outputs)`.

    Returns:
        For discrete actions the unnormalised logits `(n, outputs)`; for a Gaussian its mean and the logarithm of its standard deviation,
        `(n, 2 * action_size)`.
    """
    distribution = getattr(policy.action_dist, "distribution", None)
    if isinstance(distribution, torch.distributions.Normal):
        return torch.cat([distribution.mean, distribution.stddev.log()], dim=1).detach()
    return head


@contextmanager
def kept(distribution: Any) -> Generator[None]:
    """Restore a policy's distribution object, if it has one, after the block: `policy.get_distribution` returns it to the user."""
    if distribution is None:
        yield
        return
    before = dict(vars(distribution))
    try:
        yield
    finally:
        vars(distribution).clear()
        vars(distribution).update(before)


def _parts_of(space: spaces.Dict, image: str | None) -> DictObservation:
    boxes = {key: len(part.shape) for key, part in space.items() if isinstance(part, spaces.Box)}
    vectors = [key for key, axes in boxes.items() if axes == 1]
    images = [key for key, axes in boxes.items() if axes == 3] or vectors
    if not images:
        raise TypeError(_NO_IMAGE.format(space))
    if (image is None and len(images) > 1) or (image is not None and image not in images):
        raise ValueError(
            f"Expected image to be the key of one of {images}, got {image!r}: hook it with RecurrentAgentHook(agent, image=key)."
        )
    chosen = images[0] if image is None else image
    others = {key: torch.as_tensor(np.zeros(part.shape or (), part.dtype)) for key, part in space.items() if key != chosen}
    return DictObservation(chosen, others)


def _image_range(space: Any) -> tuple[float, float]:
    if not isinstance(space, spaces.Box) or len(space.shape) not in (1, 3):
        raise TypeError(_NO_IMAGE.format(space))
    if len(space.shape) == 1:
        return 0.0, 1.0
    low, high = float(np.min(space.low)), float(np.max(space.high))
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(
            f"Expected bounds of the images, got observation space {space}: hook it with "
            "RecurrentAgentHook(agent, input_range=(low, high))."
        )
    return low, high


_NO_IMAGE = (
    "Expected a policy that looks at images, of a Box (C, h, w) such as CnnPolicy has, at vectors, of a Box (features,), or at a "
    "dictionary with one of them, got observation space {}."
)
