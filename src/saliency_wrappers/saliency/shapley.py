"""Shapley values of games whose worth has several components: `shapley_values`, exact or by antithetic orders; `leave_one_out`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Game = Callable[[NDArray[np.bool_]], Floats]
"""From coalitions `(k, n)` to their worth `(k, components)`."""


@dataclass(frozen=True, eq=False)
class Shares:
    """Parts of n players in a game."""

    phi: Floats
    """`(n, components)`."""
    standard_error: Floats
    """`(n, components)`; 0 where phi is exact."""
    total: Floats
    """`(components,)`: `v(all) - v(none)`."""
    passes: int
    """How many coalitions were asked for."""


def shapley_values(game: Game, n: int, exact: int = 7, pairs: int = 8, seed: int = 0) -> Shares:
    """Shapley values, which sum to `v(all) - v(none)`.

    Args:
        game: what coalitions are worth.
        n: how many players.
        exact: up to so many players every coalition is asked for, `2**n`.
        pairs: of a random order and its reverse, for more players; equal coalitions are asked for once.
        seed: of the orders.
    """
    return _exact(game, n) if n <= exact else _sampled(game, n, pairs, seed)


def leave_one_out(game: Game, n: int) -> Shares:
    """Return `v(all) - v(all but i)` of each player: `n + 2` coalitions. The parts need not sum to the total."""
    worth = game(np.concatenate([np.ones((1, n), bool), np.zeros((1, n), bool), ~np.eye(n, dtype=bool)]))
    phi = worth[0] - worth[2:]
    return Shares(phi, np.zeros_like(phi), worth[0] - worth[1], n + 2)


def _exact(game: Game, n: int) -> Shares:
    numbers = np.arange(2**n)
    coalitions = (numbers[:, None] >> np.arange(n)) & 1 == 1
    worth = game(coalitions)
    by_size = np.array([factorial(size) * factorial(n - 1 - size) / factorial(n) for size in range(n)])
    sizes = coalitions.sum(axis=1)
    phi = np.empty((n, worth.shape[1]))
    for i in range(n):
        without = numbers[~coalitions[:, i]]
        phi[i] = by_size[sizes[without]] @ (worth[without | (1 << i)] - worth[without])
    return Shares(phi, np.zeros_like(phi), worth[-1] - worth[0], 2**n)


def _sampled(game: Game, n: int, pairs: int, seed: int) -> Shares:
    random = np.random.default_rng(seed)
    orders = [order for _ in range(pairs) for drawn in [random.permutation(n)] for order in (drawn, drawn[::-1])]
    chains = np.stack([np.tril(np.ones((n + 1, n), bool), -1)[:, np.argsort(order)] for order in orders])
    coalitions, place = np.unique(chains.reshape(-1, n), axis=0, return_inverse=True)
    worth = game(coalitions)[place.reshape(len(orders), n + 1)]
    gains = np.diff(worth, axis=1)
    by_player = np.stack([gain[np.argsort(order)] for gain, order in zip(gains, orders, strict=True)])
    of_pairs = by_player.reshape(pairs, 2, n, -1).mean(axis=1)
    error = of_pairs.std(axis=0, ddof=1) / np.sqrt(pairs) if pairs > 1 else np.full(of_pairs.shape[1:], np.nan)
    return Shares(of_pairs.mean(axis=0), error, worth[0, -1] - worth[0, 0], len(coalitions))
