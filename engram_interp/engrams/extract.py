"""Model + concept -> `W+ = W S+ (S+ + S-)^pinv` of every matrix (paper, Eq. 3 and 4)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.concepts.concept import Concept
from engram_interp.engrams.engram import Engram
from engram_interp.engrams.parts import Change, inputs_here, parts, prepare
from engram_interp.engrams.weights import write_matrix
from engram_interp.linalg.filters import filter_name
from engram_interp.models import Adapter, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import Site, parameter_paths
from engram_interp.options import Keep, Run, Solve, Which, takes
from engram_interp.statistics.sharing.ranks import Ranks
from engram_interp.statistics.statistics import Statistics


@exclusive
@takes(Which, Solve, Run, Keep)
def extract(
    model: nn.Module, concept: Concept | Statistics, *, which: Which, solve: Solve, run: Run, keep: Keep
) -> Engram:
    """The concept's engram, `W+ = W S+ (S+ + S-)^pinv` of every matrix (paper, Eq. 4; Eq. 3 with `delta_from`).

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, however its weights were processed, or a plain module.
        concept: what to look for, or the statistics that `collect` found for it.

    Raises:
        ValueError: if an option is out of range, the statistics are of another model or lack an input, or `delta_from`
            has other shapes; see also `collect`.
        TypeError: if an option is of another kind, as a filter that is not a function.

    Example:
        >>> from engram_interp import testbed
        >>> concept = testbed.authors().concept("Petra Dorlund")
        >>> engram = extract(testbed.load("full"), concept, components="K", layers=[1])
        >>> 0 < engram.wnorm()["blocks.1.attn.W_K"] < 1
        True
    """
    prepared = prepare(model, concept, which, solve, run, keep)
    changes = (part.change for part in parts(prepared, solve, run.progress, inputs_here(prepared)))
    options = options_of(solve, prepared.statistics.counts, prepared.statistics.positions)
    engram = engram_of(prepared.adapter, prepared.sites, _of_all(changes), prepared.statistics.name, options)
    return replace(engram, made_from=concept)


def _of_all(changes: Iterable[Change]) -> Iterable[Change]:
    """The changes that all processes of a group have made."""
    ranks = Ranks.here()
    if ranks.size == 1:
        return changes
    return (replace(change, matrix=change.matrix.cpu()) for some in ranks.gathered(list(changes)) for change in some)


def engram_of(
    adapter: Adapter, sites: list[Site], changes: Iterable[Change], name: str | None, options: dict[str, Any]
) -> Engram:
    """Changes of matrices as an engram, in the order of the sites and the shapes of the model's parameters."""
    tensors: dict[str, Tensor] = {}
    for change in changes:
        site = change.site
        for path in (site.path, *((site.bias,) if change.absorbed and site.bias is not None else ())):
            _make_room(tensors, path, adapter)
        write_matrix(tensors, site, change.matrix, change.absorbed)
    paths = parameter_paths(sites)
    norms = weight_norms(adapter, sites)
    return Engram(
        {path: tensors[path] for path in paths if path in tensors}, norms, adapter.info, name, options, tuple(sites)
    )


def weight_norms(adapter: Adapter, sites: Iterable[Site]) -> dict[str, Float[Tensor, "head"]]:
    """The Frobenius norms of the model's own weights, by path: of every head, or of the whole."""
    found: dict[str, list[Tensor]] = {}
    for site in sites:
        norms = site.layout.head_norms(site.of(adapter.parameter(site.path).detach()))
        found.setdefault(site.path, []).append(norms.cpu())
    return {path: torch.cat(norms) for path, norms in found.items()}


def options_of(solve: Solve, counts: dict[str, int], positions: str | None) -> dict[str, Any]:
    """How an engram was made, as the engram and its file say it."""
    return {
        "rtol": None if solve.rtol is None else float(solve.rtol),
        "outliers": float(solve.outliers),
        "ridge": float(solve.ridge),
        "filter": filter_name(solve.filter),
        "absorb_bias": bool(solve.absorb_bias),
        "delta_from": None if solve.delta_from is None else adapt(solve.delta_from).info.name,
        "positions": positions,
        **{f"{group} tokens": count for group, count in counts.items()},
    }


def _make_room(tensors: dict[str, Tensor], path: str, adapter: Adapter) -> None:
    """Zeros for an engram's tensor, if there is none yet.

    It is on the parameter's device, in its precision or in float32, whichever is finer, and laid out as it is:
    a weight of Hugging Face's is transposed in memory, and an edit then reads both along their rows.
    """
    if path not in tensors:
        parameter = adapter.parameter(path)
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        tensors[path] = torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
