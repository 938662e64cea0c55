"""Which positions count? Those that produce the answer's tokens, those that hold them, both, or all.

A model says the token at position `t + 1` with what it computes at position `t`. So an answer `a_1 ... a_m` behind a
prompt `p_1 ... p_n` is *held* at `a_1 ... a_m` and *produced* at `p_n, a_1 ... a_(m-1)`:

    prompt and answer      p_1 ... p_n  a_1 ... a_(m-1)  a_m
    "predicting"                    x    x  ...    x
    "answer"                             x  ...    x      x
    "both"                          x    x  ...    x      x
    "all"                   x  ...  x    x  ...    x      x

A one-token answer is produced at the last token of its prompt only.
"""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from engram_interp.options import ALL, ANSWER, BOTH, PREDICTING


def before(answer: Bool[Tensor, "*batch pos"]) -> Bool[Tensor, "*batch pos"]:
    """The positions one before these: those that produce the tokens there.

    Example:
        >>> import torch
        >>> before(torch.tensor([False, False, True, True])).tolist()
        [False, True, True, False]
    """
    shifted = answer.roll(-1, dims=-1)
    shifted[..., -1] = False
    return shifted


def after(positions: Bool[Tensor, "*batch pos"]) -> Bool[Tensor, "*batch pos"]:
    """The positions one after these: the tokens that are produced there.

    Example:
        >>> import torch
        >>> after(torch.tensor([False, True, True, False])).tolist()
        [False, False, True, True]
    """
    shifted = positions.roll(1, dims=-1)
    shifted[..., 0] = False
    return shifted


def counted(positions: str, answer: Bool[Tensor, "pos"], text: Bool[Tensor, "pos"]) -> Bool[Tensor, "pos"]:
    """The positions that count.

    Args:
        positions: which, by name.
        answer: true at the answer's tokens.
        text: true at every real token, prompts included. BOS is none.

    Example:
        >>> import torch
        >>> answer = torch.tensor([False, False, True, True])
        >>> {name: counted(name, answer, torch.ones(4).bool()).int().tolist() for name in ("both", "all")}
        {'both': [0, 1, 1, 1], 'all': [1, 1, 1, 1]}
    """
    rules = {
        PREDICTING: lambda: before(answer),
        ANSWER: lambda: answer.clone(),
        BOTH: lambda: before(answer) | answer,
        ALL: lambda: text | answer,
    }
    return rules[positions]()


def scored(
    counts: Bool[Tensor, "pos"], chosen: Bool[Tensor, "pos"], answer: Bool[Tensor, "pos"]
) -> Bool[Tensor, "pos"]:
    """Which of an answer's tokens go with some of the positions that count: those that these produce.

    A token that no position that counts produces goes with the position that holds it.

    Args:
        counts: all positions that count.
        chosen: some of them.
        answer: the answer's tokens.

    Example:
        >>> import torch
        >>> answer, predicting = torch.tensor([False, False, True, True]), torch.tensor([False, True, True, False])
        >>> scored(predicting, torch.tensor([False, True, False, False]), answer).tolist()
        [False, False, True, False]
    """
    produced = after(counts)
    return answer & ((after(chosen) & produced) | (chosen & ~produced))
