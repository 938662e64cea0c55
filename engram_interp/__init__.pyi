"""Find, weigh, test and edit AI engrams in language models and other networks, as by `engram_interp.localize`."""

# Written by tools/interface.py (`make format`) from the functions themselves: change these.

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from engram_interp import benchmarks as benchmarks
from engram_interp import testbed as testbed
from engram_interp.answers.scoring import Score as Score
from engram_interp.common.arguments import Layers
from engram_interp.common.arguments import Number
from engram_interp.concepts.concept import Concept as Concept
from engram_interp.concepts.concept import Example
from engram_interp.concepts.concept import Pair as Pair
from engram_interp.effects.ablation import AblationStudy as AblationStudy
from engram_interp.effects.ablation import AllBut as AllBut
from engram_interp.effects.ablation import Only as Only
from engram_interp.effects.ablation import PAPER as PAPER
from engram_interp.effects.ablation import ScoreFunction
from engram_interp.effects.ablation import answers
from engram_interp.effects.attribution import Attribution as Attribution
from engram_interp.effects.criteria import Criteria as Criteria
from engram_interp.effects.kept import UserScore
from engram_interp.effects.strength import AlphaChoice as AlphaChoice
from engram_interp.engrams.engram import Engram as Engram
from engram_interp.engrams.export import export_hf as export_hf
from engram_interp.engrams.strengths import Alpha
from engram_interp.learning.grafting.graft import Graft as Graft
from engram_interp.learning.grafting.grafting import SHARES
from engram_interp.learning.protection.kept import Keepable
from engram_interp.learning.protection.protection import EVERYTHING
from engram_interp.learning.protection.protection import Protection as Protection
from engram_interp.learning.tracking.callback import EngramCallback as EngramCallback
from engram_interp.learning.tracking.callback import StreamingEngramCallback as StreamingEngramCallback
from engram_interp.learning.tracking.checkpoints import Checkpoint
from engram_interp.learning.tracking.trajectory import Trajectory as Trajectory
from engram_interp.linalg import filters as filters
from engram_interp.linalg.filters import Function
from engram_interp.linalg.filters import soft
from engram_interp.maps.complement import Complement as Complement
from engram_interp.maps.decomposition import Decomposition as Decomposition
from engram_interp.maps.diagnosis import CUTS
from engram_interp.maps.diagnosis import Diagnosis as Diagnosis
from engram_interp.maps.localization_map import LocalizationMap as LocalizationMap
from engram_interp.maps.overlap import Interference as Interference
from engram_interp.maps.overlap import Overlap as Overlap
from engram_interp.models.loading import load_model as load_model
from engram_interp.models.outline import Source
from engram_interp.report.explorer.exploration import Exploration as Exploration
from engram_interp.sae.concepts import SaeConcept as SaeConcept
from engram_interp.sae.corpus import Corpus
from engram_interp.sae.ranking import choose_feature as choose_feature
from engram_interp.sae.reader import Index
from engram_interp.sae.reconstruction import Reconstruction
from engram_interp.sharing.catalog import catalog as catalog
from engram_interp.statistics.planning.plan import Plan as Plan
from engram_interp.statistics.statistics import Statistics as Statistics
from engram_interp.statistics.statistics import names_filter as names_filter
from engram_interp.unlearning import metrics as metrics
from engram_interp.unlearning.benchmarks import Benchmark as Benchmark
from engram_interp.unlearning.benchmarks import QA as QA
from engram_interp.unlearning.benchmarks import tofu as tofu
from engram_interp.unlearning.metrics.utility import Classifier
from engram_interp.unlearning.run import Run as Run
from engram_interp.unlearning.scores import Evaluation as Evaluation
from jaxtyping import Float
from torch import Tensor
from torch import nn
from typing import Any
import os
import pandas as pd
import torch

__version__: str
__all__ = [
    "AblationStudy",
    "AllBut",
    "AlphaChoice",
    "Attribution",
    "Benchmark",
    "Complement",
    "Concept",
    "Criteria",
    "Decomposition",
    "Diagnosis",
    "Engram",
    "EngramCallback",
    "Evaluation",
    "Exploration",
    "Graft",
    "Interference",
    "LocalizationMap",
    "Only",
    "Overlap",
    "PAPER",
    "Pair",
    "Plan",
    "Protection",
    "QA",
    "Run",
    "SaeConcept",
    "Score",
    "Statistics",
    "StreamingEngramCallback",
    "Trajectory",
    "ablation_study",
    "attribute",
    "benchmarks",
    "catalog",
    "choose_alpha",
    "choose_feature",
    "collect",
    "complement",
    "concept_from_sae",
    "concepts_from_sae",
    "criteria",
    "decompose",
    "diagnose",
    "evaluate",
    "explore",
    "export_hf",
    "extract",
    "filters",
    "graft",
    "greedy_answers",
    "interference",
    "load_model",
    "localize",
    "measure",
    "metrics",
    "names_filter",
    "null_check",
    "overlap",
    "plan",
    "protect",
    "rank_features",
    "reads",
    "reconstruction",
    "rewrite",
    "score",
    "task_vector",
    "testbed",
    "tofu",
    "track",
    "values_like",
    "writes",
]

def collect(
    model: nn.Module,
    concept: Concept | Mapping[str, Any],
    *,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    positions: str = "predicting",
    eos: bool = True,
    progress: bool | None = None,
    batch_size: int | None = None,
    store: str | os.PathLike[str] | None = None,
    budget: int | str | None = None,
    resume: bool = True,
    checkpoint_every: float | int = 300.0,
    storage_device: str | torch.device | None = None,
    max_tokens: int | None = None,
    until: float | int | None = None,
) -> Statistics:
    """Second moments of every input over a concept's target and reference examples (paper, Section 4).

    They serve every cut, ridge and filter: give them to `extract`, `localize` or `diagnose` in the concept's place.

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, however its weights were processed, or any other module of
            linear and convolution layers.
        concept: what to look for, or groups of examples by name, as `decompose` takes them. A `Concept` says itself
            which positions count.
        components: names of components, `W_Q` to `W_U`, or short, `Q` to `U`. Of a plain module, paths of its modules,
            or patterns of such paths as `blocks.*.mlp`; a module stands for all that is in it. None means all that the
            model has.
        layers: one layer or several, by number. Of a plain module, depths in the order of calls. None means all. The
            unembedding lies in no layer: `layers` leaves it out, unless `components` names it.
        positions: `"predicting"` counts those whose output gives the answer's tokens: the prompt's last token to the
            answer's last but one (to its last if EOS follows). `"answer"` counts the answer's own tokens, as the paper
            does. `"both"` counts either, and `"all"` every token but BOS. Raises ValueError if it is another word.
        eos: whether the end-of-sequence token follows every answer. It is then one of the answer's tokens.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.
        store: a folder for the moments. They are written there as they are done, with checkpoints, and read one input
            at a time, so that memory holds the largest input only. Without a null that keeps rows, maps are then
            compared with the analytic null. None keeps all moments in memory.
        budget: how much memory moments may take while they are summed, beside the model and a batch: a number of bytes,
            or `"24GB"`. Inputs beyond it wait for a further pass over the examples. None sums all in one pass. It needs
            a store. Raises ValueError if it does not hold the largest input.
        resume: goes on with a store that is there: after a process was killed, from its last checkpoint, and with the
            same bits in the end. A finished store is opened. Raises ValueError if the model, the examples or the
            options are others, and FileExistsError if `resume` is False and there is a store.
        checkpoint_every: seconds between checkpoints. They are rarer if writing them takes over a twentieth of the
            time.
        storage_device: where sums are kept, such as `"cpu"`. None keeps each where its input is computed.
        max_tokens: how many positions that count are read of each side, in the order in which its examples come. The
            example that exceeds it is left out. None reads all.
        until: ends the pass when the 95 % interval of every W-Norm that is watched is at most this wide; see
            `statistics/convergence.py`. None reads all.

    Raises:
        TypeError: if it is neither, or a `Concept` comes with `positions` or `eos`.
        ValueError: if a component or layer is unknown, the model cannot read an example, no position of a group counts,
            or an activation is not finite (the message names its matrices and its batch).

    Example:
        >>> from engram_interp import testbed
        >>> concept = Concept(target=["the city of Oslo"], reference=["What is the capital of Norway?"])
        >>> collect(testbed.load("full"), concept, layers=[1]).counts
        {'target': 4, 'reference': 7}
    """

def plan(
    model: Source,
    n_tokens: int | Mapping[str, int] = 100000,
    *,
    groups: int = 2,
    budget: int | str | None = None,
    devices: int = 1,
    ranks: int = 1,
    flops: float | int | None = None,
    dtype: torch.dtype | None = None,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
) -> Plan:
    """What `collect`, `localize` and `extract` will take: bytes by stage, passes within a budget, seconds.

    Args:
        model: a model; or a Hugging Face configuration, or a folder or file that holds one, for which no weight is
            needed.
        n_tokens: how many positions count. A number stands for each group; `{"target": 3000, "reference": 1000000}`
            says it by group. A group with few of them is kept as rows.
        groups: how many groups of examples there are, if `n_tokens` is a number.
        budget: how much memory sums may take in each process, as in `collect`.
        devices: over how many devices the model's weights are spread.
        ranks: how many processes share the sums.
        flops: floating-point operations a second of each process. None measures a batch, if the model has weights.
        dtype: the precision of the weights that a configuration would have.
        components: names of components, `W_Q` to `W_U`, or short, `Q` to `U`. Of a plain module, paths of its modules,
            or patterns of such paths as `blocks.*.mlp`; a module stands for all that is in it. None means all that the
            model has.
        layers: one layer or several, by number. Of a plain module, depths in the order of calls. None means all. The
            unembedding lies in no layer: `layers` leaves it out, unless `components` names it.

    Raises:
        ValueError: if the budget does not hold the largest input, or a number is out of range.
        FileNotFoundError: if a path leads nowhere.
        TypeError: if `model` is nothing of this.

    Example:
        >>> from transformers import LlamaConfig
        >>> found = plan(LlamaConfig(num_hidden_layers=2, hidden_size=64, intermediate_size=128), budget="600KB")
        >>> len(found.inputs), len(found.passes)
        (9, 3)
    """

def extract(
    model: nn.Module,
    concept: Concept | Statistics,
    *,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    rtol: float | int | None = None,
    outliers: float | int = 0.0,
    absorb_bias: bool = True,
    ridge: float | int = 0.0,
    filter: Function = soft,
    delta_from: nn.Module | None = None,
    progress: bool | None = None,
    batch_size: int | None = None,
    store: str | os.PathLike[str] | None = None,
    budget: int | str | None = None,
    resume: bool = True,
    checkpoint_every: float | int = 300.0,
    storage_device: str | torch.device | None = None,
    max_tokens: int | None = None,
    until: float | int | None = None,
) -> Engram:
    """The concept's engram, `W+ = W S+ (S+ + S-)^pinv` of every matrix (paper, Eq. 4; Eq. 3 with `delta_from`).

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, however its weights were processed, or a plain module.
        concept: what to look for, or the statistics that `collect` found for it.
        components: names of components, `W_Q` to `W_U`, or short, `Q` to `U`. Of a plain module, paths of its modules,
            or patterns of such paths as `blocks.*.mlp`; a module stands for all that is in it. None means all that the
            model has.
        layers: one layer or several, by number. Of a plain module, depths in the order of calls. None means all. The
            unembedding lies in no layer: `layers` leaves it out, unless `components` names it.
        rtol: drops directions whose eigenvalue is at most this share of the largest. None means `d * 2**-23`, with `d`
            the size of the moment matrix. Raises ValueError if it is outside [0, 1).
        outliers: the share of directions, those with the largest eigenvalues, that do not set the cut: `rtol` is then
            relative to the largest eigenvalue of the others. 0.01 sets massive activations aside, of which one can hide
            most other directions below the cut. Raises ValueError if it is outside [0, 1).
        absorb_bias: treats a bias as one more column of its weight.
        ridge: uses `(S+ + S- + ridge I)^-1` in place of the pseudo-inverse (UCE; paper, Eq. 31). Its unit is that of
            the moments, which are sums over tokens. With a ridge nothing is dropped, unless `rtol` says so. Raises
            ValueError if it is negative.
        filter: how much is taken of a direction of which the target owns a share: `filters.soft` (the paper's),
            `filters.power(p)`, `filters.hard(tau)`, `filters.clip(gain)`, `filters.over(share)`, or any function from
            shares in [0, 1] to as many numbers.
        delta_from: takes the engram of `W - W_0`, with `W_0` the weights of this model of the same shape (paper, Eq.
            3). Sizes remain shares of `W`.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.
        store: a folder for the moments. They are written there as they are done, with checkpoints, and read one input
            at a time, so that memory holds the largest input only. Without a null that keeps rows, maps are then
            compared with the analytic null. None keeps all moments in memory.
        budget: how much memory moments may take while they are summed, beside the model and a batch: a number of bytes,
            or `"24GB"`. Inputs beyond it wait for a further pass over the examples. None sums all in one pass. It needs
            a store. Raises ValueError if it does not hold the largest input.
        resume: goes on with a store that is there: after a process was killed, from its last checkpoint, and with the
            same bits in the end. A finished store is opened. Raises ValueError if the model, the examples or the
            options are others, and FileExistsError if `resume` is False and there is a store.
        checkpoint_every: seconds between checkpoints. They are rarer if writing them takes over a twentieth of the
            time.
        storage_device: where sums are kept, such as `"cpu"`. None keeps each where its input is computed.
        max_tokens: how many positions that count are read of each side, in the order in which its examples come. The
            example that exceeds it is left out. None reads all.
        until: ends the pass when the 95 % interval of every W-Norm that is watched is at most this wide; see
            `statistics/convergence.py`. None reads all.

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

def localize(
    model: nn.Module,
    concept: Concept | Statistics,
    *,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    rtol: float | int | None = None,
    outliers: float | int = 0.0,
    absorb_bias: bool = True,
    ridge: float | int = 0.0,
    filter: Function = soft,
    delta_from: nn.Module | None = None,
    progress: bool | None = None,
    batch_size: int | None = None,
    store: str | os.PathLike[str] | None = None,
    budget: int | str | None = None,
    resume: bool = True,
    checkpoint_every: float | int = 300.0,
    storage_device: str | torch.device | None = None,
    max_tokens: int | None = None,
    until: float | int | None = None,
    null: str | None = None,
    groups: Any = None,
    gradient: bool = False,
    draws: int = 199,
    seed: int = 0,
) -> LocalizationMap:
    """How much of every matrix and head the concept owns, and how much that is over a target with nothing of its own.

    W-Norm may exceed 1: with hardly more tokens than an input has dimensions, `P+` is far from a projection. W-Norm is
    over the weight alone, without the bias; the Fisher share is over both.

    The score presumes that the model knows the target as it knows the siblings: text that is new to it stands out too,
    without a place in the weights. A warning says if clearly fewer of the target's answer tokens are right. In the
    first layer a memory is hard to find: inputs there are single tokens, which all memories share. A star needs other
    matrices to stand out from, so map all of them, and not only those of a layer.

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, however its weights were processed, or a plain module.
        concept: what to look for, or its statistics.
        components: names of components, `W_Q` to `W_U`, or short, `Q` to `U`. Of a plain module, paths of its modules,
            or patterns of such paths as `blocks.*.mlp`; a module stands for all that is in it. None means all that the
            model has.
        layers: one layer or several, by number. Of a plain module, depths in the order of calls. None means all. The
            unembedding lies in no layer: `layers` leaves it out, unless `components` names it.
        rtol: drops directions whose eigenvalue is at most this share of the largest. None means `d * 2**-23`, with `d`
            the size of the moment matrix. Raises ValueError if it is outside [0, 1).
        outliers: the share of directions, those with the largest eigenvalues, that do not set the cut: `rtol` is then
            relative to the largest eigenvalue of the others. 0.01 sets massive activations aside, of which one can hide
            most other directions below the cut. Raises ValueError if it is outside [0, 1).
        absorb_bias: treats a bias as one more column of its weight.
        ridge: uses `(S+ + S- + ridge I)^-1` in place of the pseudo-inverse (UCE; paper, Eq. 31). Its unit is that of
            the moments, which are sums over tokens. With a ridge nothing is dropped, unless `rtol` says so. Raises
            ValueError if it is negative.
        filter: how much is taken of a direction of which the target owns a share: `filters.soft` (the paper's),
            `filters.power(p)`, `filters.hard(tau)`, `filters.clip(gain)`, `filters.over(share)`, or any function from
            shares in [0, 1] to as many numbers.
        delta_from: takes the engram of `W - W_0`, with `W_0` the weights of this model of the same shape (paper, Eq.
            3). Sizes remain shares of `W`.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.
        store: a folder for the moments. They are written there as they are done, with checkpoints, and read one input
            at a time, so that memory holds the largest input only. Without a null that keeps rows, maps are then
            compared with the analytic null. None keeps all moments in memory.
        budget: how much memory moments may take while they are summed, beside the model and a batch: a number of bytes,
            or `"24GB"`. Inputs beyond it wait for a further pass over the examples. None sums all in one pass. It needs
            a store. Raises ValueError if it does not hold the largest input.
        resume: goes on with a store that is there: after a process was killed, from its last checkpoint, and with the
            same bits in the end. A finished store is opened. Raises ValueError if the model, the examples or the
            options are others, and FileExistsError if `resume` is False and there is a store.
        checkpoint_every: seconds between checkpoints. They are rarer if writing them takes over a twentieth of the
            time.
        storage_device: where sums are kept, such as `"cpu"`. None keeps each where its input is computed.
        max_tokens: how many positions that count are read of each side, in the order in which its examples come. The
            example that exceeds it is left out. None reads all.
        until: ends the pass when the 95 % interval of every W-Norm that is watched is at most this wide; see
            `statistics/convergence.py`. None reads all.
        null: what sizes are compared with. `"siblings"`: other whole memories, as `groups` says, each set of as many as
            the target consists of. Everything that was learned as a whole leaves like traces, so this null tells what
            is the target's own. `"resampled"`: random examples of target and reference together, as many as the target
            has. Any whole memory differs from these nearly everywhere. `"analytic"`: a target with the second moments
            of all examples. It costs nothing, and a small target exceeds it by noise alone. The first two keep the rows
            of every input, and give p-values and intervals; the memory and time that this takes are logged before it
            starts, as a warning if it is over 1 GB or 30 s and `progress` is not False. None takes siblings where the
            concept has 19 or more of them and the filter allows it, and else the analytic null, as for statistics; also
            where the rows of pictures would take over 2 GB, which a warning says.
        groups: which memory each example belongs to: a function of an example, a list with a label for each reference
            example, or `{"target": [...], "reference": [...]}`. An example labelled None belongs to no memory. None
            goes by the subject that prompts share, where the target has one, and else takes blocks of consecutive
            reference examples, as long as the target. `memories` of the map says which it was.
        gradient: also says how much more the target's answers rely on a matrix than its siblings' do: `reliance`, from
            `-<dL/dW, W> / |dL/dW|`, by a backward pass over every memory. A significant score must then be significant
            in it too, so that text that is new to the model is starred less; the score itself stays as it is. Where a
            memory is a small part of its matrices, as in large models, the reliance finds it and the score does not:
            see `top(by="reliance")`. It hardly tells apart what scales the same thing: `W_V` and `W_O`, `W_Q` and
            `W_K`, the linear half of a gated MLP and its `W_out`.
        draws: how many sets at most; p-values are multiples of `1 / (draws + 1)`.
        seed: of the sets.

    Raises:
        ValueError: if `null` is another word, the reference has fewer than two memories to compare with, `draws` is
            below 19 (too few for a p-value of 0.05), or a null of sets meets a filter that takes something of a
            direction that the target does not own, or `gradient` or `groups` another null than siblings; see also
            `extract`.
        TypeError: if sets of examples are asked of statistics, which hold no single examples.

    Example:
        >>> from engram_interp import testbed
        >>> wmap = localize(testbed.load("full"), testbed.authors().concept("Petra Dorlund"), null="analytic")
        >>> wmap.top(2)["component"].tolist()
        ['W_gate', 'W_in']
    """

def diagnose(
    model: nn.Module | Statistics,
    concept: Concept | Statistics | str = "target",
    *,
    rtols: Collection[float | int] = CUTS,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    rtol: float | int | None = None,
    outliers: float | int = 0.0,
    absorb_bias: bool = True,
    ridge: float | int = 0.0,
    filter: Function = soft,
    delta_from: nn.Module | None = None,
    progress: bool | None = None,
    batch_size: int | None = None,
    store: str | os.PathLike[str] | None = None,
    budget: int | str | None = None,
    resume: bool = True,
    checkpoint_every: float | int = 300.0,
    storage_device: str | torch.device | None = None,
    max_tokens: int | None = None,
    until: float | int | None = None,
) -> Diagnosis:
    """Spectra and behaviour of the soft projectors of every input, and of the engrams of every matrix.

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, however its weights were processed, or a plain module.
            Statistics in its place are diagnosed by themselves: inputs only, and without rows of ones, since only the
            model knows which biases there are.
        concept: what to look for, or its statistics. With statistics in the model's place, the name of the group that
            is told apart from all others.
        rtols: the cuts to compare, beside `rtol` itself.
        components: names of components, `W_Q` to `W_U`, or short, `Q` to `U`. Of a plain module, paths of its modules,
            or patterns of such paths as `blocks.*.mlp`; a module stands for all that is in it. None means all that the
            model has.
        layers: one layer or several, by number. Of a plain module, depths in the order of calls. None means all. The
            unembedding lies in no layer: `layers` leaves it out, unless `components` names it.
        rtol: drops directions whose eigenvalue is at most this share of the largest. None means `d * 2**-23`, with `d`
            the size of the moment matrix. Raises ValueError if it is outside [0, 1).
        outliers: the share of directions, those with the largest eigenvalues, that do not set the cut: `rtol` is then
            relative to the largest eigenvalue of the others. 0.01 sets massive activations aside, of which one can hide
            most other directions below the cut. Raises ValueError if it is outside [0, 1).
        absorb_bias: treats a bias as one more column of its weight.
        ridge: uses `(S+ + S- + ridge I)^-1` in place of the pseudo-inverse (UCE; paper, Eq. 31). Its unit is that of
            the moments, which are sums over tokens. With a ridge nothing is dropped, unless `rtol` says so. Raises
            ValueError if it is negative.
        filter: how much is taken of a direction of which the target owns a share: `filters.soft` (the paper's),
            `filters.power(p)`, `filters.hard(tau)`, `filters.clip(gain)`, `filters.over(share)`, or any function from
            shares in [0, 1] to as many numbers.
        delta_from: takes the engram of `W - W_0`, with `W_0` the weights of this model of the same shape (paper, Eq.
            3). Sizes remain shares of `W`.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.
        store: a folder for the moments. They are written there as they are done, with checkpoints, and read one input
            at a time, so that memory holds the largest input only. Without a null that keeps rows, maps are then
            compared with the analytic null. None keeps all moments in memory.
        budget: how much memory moments may take while they are summed, beside the model and a batch: a number of bytes,
            or `"24GB"`. Inputs beyond it wait for a further pass over the examples. None sums all in one pass. It needs
            a store. Raises ValueError if it does not hold the largest input.
        resume: goes on with a store that is there: after a process was killed, from its last checkpoint, and with the
            same bits in the end. A finished store is opened. Raises ValueError if the model, the examples or the
            options are others, and FileExistsError if `resume` is False and there is a store.
        checkpoint_every: seconds between checkpoints. They are rarer if writing them takes over a twentieth of the
            time.
        storage_device: where sums are kept, such as `"cpu"`. None keeps each where its input is computed.
        max_tokens: how many positions that count are read of each side, in the order in which its examples come. The
            example that exceeds it is left out. None reads all.
        until: ends the pass when the 95 % interval of every W-Norm that is watched is at most this wide; see
            `statistics/convergence.py`. None reads all.

    Raises:
        ValueError: if the statistics lack the group; see also `extract`.
        TypeError: if a group's name comes with a model, or a concept, a choice of matrices or `delta_from` comes with
            statistics alone.

    Example:
        >>> from engram_interp import testbed
        >>> model, concept = testbed.load("full"), testbed.authors().concept("Petra Dorlund")
        >>> found = diagnose(model, concept, components=["Q", "K"], layers=[0])
        >>> found.to_frame()[["key", "rank"]].values.tolist()
        [['blocks.0.attn.W_Q', 256], ['blocks.0.attn.W_K', 256]]
    """

def decompose(
    model: nn.Module,
    concepts: Mapping[str, Any] | Any,
    *,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    positions: str = "predicting",
    eos: bool = True,
    rtol: float | int | None = None,
    outliers: float | int = 0.0,
    absorb_bias: bool = True,
    ridge: float | int = 0.0,
    filter: Function = soft,
    delta_from: nn.Module | None = None,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> Decomposition:
    """Many concepts from one pass, each told apart from all others (paper, Eq. 6).

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, however its weights were processed, or a plain module.
        concepts: examples by name, each as `Concept` takes them, or, for a plain module, batches of what it takes. A
            labelled dataset has a concept for each class. What concepts should only be told apart from goes in too, as
            a concept of its own. Statistics have a concept for each group: `collect(model, groups, store=...)` leaves
            them on disk, and one input at a time is read.
        components: names of components, `W_Q` to `W_U`, or short, `Q` to `U`. Of a plain module, paths of its modules,
            or patterns of such paths as `blocks.*.mlp`; a module stands for all that is in it. None means all that the
            model has.
        layers: one layer or several, by number. Of a plain module, depths in the order of calls. None means all. The
            unembedding lies in no layer: `layers` leaves it out, unless `components` names it.
        positions: `"predicting"` counts those whose output gives the answer's tokens: the prompt's last token to the
            answer's last but one (to its last if EOS follows). `"answer"` counts the answer's own tokens, as the paper
            does. `"both"` counts either, and `"all"` every token but BOS. Raises ValueError if it is another word.
        eos: whether the end-of-sequence token follows every answer. It is then one of the answer's tokens.
        rtol: drops directions whose eigenvalue is at most this share of the largest. None means `d * 2**-23`, with `d`
            the size of the moment matrix. Raises ValueError if it is outside [0, 1).
        outliers: the share of directions, those with the largest eigenvalues, that do not set the cut: `rtol` is then
            relative to the largest eigenvalue of the others. 0.01 sets massive activations aside, of which one can hide
            most other directions below the cut. Raises ValueError if it is outside [0, 1).
        absorb_bias: treats a bias as one more column of its weight.
        ridge: uses `(S+ + S- + ridge I)^-1` in place of the pseudo-inverse (UCE; paper, Eq. 31). Its unit is that of
            the moments, which are sums over tokens. With a ridge nothing is dropped, unless `rtol` says so. Raises
            ValueError if it is negative.
        filter: how much is taken of a direction of which the target owns a share: `filters.soft` (the paper's),
            `filters.power(p)`, `filters.hard(tau)`, `filters.clip(gain)`, `filters.over(share)`, or any function from
            shares in [0, 1] to as many numbers.
        delta_from: takes the engram of `W - W_0`, with `W_0` the weights of this model of the same shape (paper, Eq.
            3). Sizes remain shares of `W`.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Raises:
        ValueError: see `extract`.
        TypeError: if `concepts` is anything but examples by name.

    Example:
        >>> from engram_interp import testbed
        >>> model, corpus = testbed.load("full"), testbed.authors()
        >>> people = {author.name: author.examples for author in corpus.forget10}
        >>> parts = decompose(model, {**people, "world": corpus.world_examples}, components="gate", layers=[0])
        >>> first, second, *_ = parts
        >>> edited = parts.ablate({first, second}, alpha=2.0)
    """

def overlap(
    parts: Decomposition,
    names: Collection[str] | None = None,
    *,
    progress: bool | None = None,
) -> Overlap:
    """How much the soft projectors of every two concepts have in common, by input and over all.

    Args:
        parts: the decomposition. Each concept is a share of the total of all its concepts.
        names: which of its concepts to compare; all by default.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.

    Raises:
        ValueError: if the decomposition lacks a name, or there are fewer than two.

    Example:
        >>> import engram_interp as ei
        >>> corpus = ei.testbed.authors()
        >>> people = {author.name: author.examples for author in corpus.forget10[:3]}
        >>> parts = ei.decompose(ei.testbed.load("full"), people, components="gate", layers=[0])
        >>> found = ei.overlap(parts).to_frame()
        >>> len(found), bool((found["overlap"] >= 0).all())
        (6, True)
    """

def complement(
    parts: Decomposition,
    names: Collection[str] | None = None,
    *,
    progress: bool | None = None,
) -> Complement:
    """What is left of every input when the soft projectors of concepts are subtracted.

    Args:
        parts: the decomposition.
        names: which of its concepts; all by default, which leaves nothing that the cut keeps.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.

    Raises:
        ValueError: if the decomposition lacks a name, or there is no name.
        RuntimeError: if the model's weights have changed.

    Example:
        >>> from engram_interp import decompose, testbed
        >>> corpus = testbed.authors()
        >>> people = {author.name: author.examples for author in corpus.forget10[:2]}
        >>> found = complement(decompose(testbed.load("full"), people, components="gate", layers=[0]))
        >>> bool(found.inputs.at[0, "null"] + found.inputs.at[0, "below_cut"] == found.inputs.at[0, "complement"])
        True
    """

def reads(
    model: nn.Module,
    engram: Engram,
    key: str,
    concept: Concept,
    *,
    n: int = 4,
    n_tokens: int = 8,
    draws: int = 49,
    seed: int = 0,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """What a matrix's engram listens to, in the examples' own tokens; otherwise as `writes`.

    `tokens` are those at whose positions the direction is called up most: the largest `u^T W+ x` on average, over
    target and reference.

    Args:
        model: see `writes`.
        engram: see `writes`.
        key: any matrix, by its path.
        concept: see `writes`.
        n: how many directions, 1 or more.
        n_tokens: how many tokens of each, 1 or more.
        draws: how many random sets of as many examples to compare with, 19 or more.
        seed: of the sets.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Raises:
        ValueError: see `writes`; also if the matrix is an expert's, to which only some positions are sent.
    """

def writes(
    model: nn.Module,
    engram: Engram,
    key: str,
    concept: Concept,
    *,
    n: int = 4,
    n_tokens: int = 8,
    draws: int = 49,
    seed: int = 0,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """What a matrix's engram writes into the residual stream, in tokens.

    Args:
        model: the model that the engram is part of.
        engram: the engram.
        key: a `W_O`, a `W_out` or the unembedding, by its path.
        concept: what the engram was made from.
        n: how many directions, 1 or more.
        n_tokens: how many tokens of each, 1 or more.
        draws: how many random sets of as many examples to compare with, 19 or more.
        seed: of the sets.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Returns:
        A row for each direction: its `share` of the energy of `W+ x` over all examples; `control`, the mean share of
        that direction in random sets, and `p_value`, how often one has as large a share; and `tokens`, those whose
        logits it raises most when the target calls it up, with the final norm's gain and without its scale.

    Raises:
        ValueError: if the engram or the model lacks the matrix, it does not write into the residual stream, or the
            model has no tokenizer; if an option is out of range.

    Example:
        >>> import engram_interp as ei
        >>> model, concept = ei.testbed.load("full"), ei.testbed.authors().concept("Petra Dorlund")
        >>> engram = ei.extract(model, concept, components="out", layers=3)
        >>> found = ei.writes(model, engram, "blocks.3.mlp.W_out", concept, n=1, draws=19)
        >>> bool(found["share"][0] > found["control"][0])
        True
    """

def track(
    checkpoints: Iterable[Checkpoint] | str | os.PathLike[str],
    concepts: Concept | Mapping[str, Concept] | Iterable[Concept],
    *,
    model: nn.Module | None = None,
    load: Callable[[Any], nn.Module] | None = None,
    tokenizer: Any = None,
    reuse_reference: int = 1,
    folder: str | os.PathLike[str] | None = None,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    rtol: float | int | None = None,
    outliers: float | int = 0.0,
    absorb_bias: bool = True,
    ridge: float | int = 0.0,
    filter: Function = soft,
    delta_from: nn.Module | None = None,
    progress: bool | None = None,
    batch_size: int | None = None,
    null: str | None = None,
    groups: Any = None,
    gradient: bool = False,
    draws: int = 199,
    seed: int = 0,
) -> Trajectory:
    """How memories form: maps, answers, overlaps and changes of engrams at each checkpoint of a training run.

    Checkpoints are loaded one at a time. One that cannot be read or measured is named in a warning and in `failed`, and
    the rest goes on.

    Args:
        checkpoints: models, folders, names, `.safetensors` files of weights, state dicts, functions that return a
            model, or `(step, one of these)`; or a folder that holds a folder or a file for each, as `checkpoint-500`.
            Without a step of its own, a checkpoint has the last number in its name, or its place.
        concepts: what to look for: a `Concept`, several, or concepts by name.
        model: the architecture of state dicts. They are loaded into copies.
        load: makes a model of a folder or a name. None is `load_model`.
        tokenizer: of Hugging Face models that are given as modules, which then read text as in their own class.
        reuse_reference: how many checkpoints the reference's statistics serve. Above 1, maps are compared with the
            analytic null, and where the statistics are taken anew, the error of the old ones is logged and written into
            `steps`. The last checkpoint's are its own, but for an iterator's, whose end nobody knows.
        folder: where results are kept as they are made. A track that was interrupted goes on there, and measures only
            what is missing. None keeps nothing.
        components: names of components, `W_Q` to `W_U`, or short, `Q` to `U`. Of a plain module, paths of its modules,
            or patterns of such paths as `blocks.*.mlp`; a module stands for all that is in it. None means all that the
            model has.
        layers: one layer or several, by number. Of a plain module, depths in the order of calls. None means all. The
            unembedding lies in no layer: `layers` leaves it out, unless `components` names it.
        rtol: drops directions whose eigenvalue is at most this share of the largest. None means `d * 2**-23`, with `d`
            the size of the moment matrix. Raises ValueError if it is outside [0, 1).
        outliers: the share of directions, those with the largest eigenvalues, that do not set the cut: `rtol` is then
            relative to the largest eigenvalue of the others. 0.01 sets massive activations aside, of which one can hide
            most other directions below the cut. Raises ValueError if it is outside [0, 1).
        absorb_bias: treats a bias as one more column of its weight.
        ridge: uses `(S+ + S- + ridge I)^-1` in place of the pseudo-inverse (UCE; paper, Eq. 31). Its unit is that of
            the moments, which are sums over tokens. With a ridge nothing is dropped, unless `rtol` says so. Raises
            ValueError if it is negative.
        filter: how much is taken of a direction of which the target owns a share: `filters.soft` (the paper's),
            `filters.power(p)`, `filters.hard(tau)`, `filters.clip(gain)`, `filters.over(share)`, or any function from
            shares in [0, 1] to as many numbers.
        delta_from: takes the engram of `W - W_0`, with `W_0` the weights of this model of the same shape (paper, Eq.
            3). Sizes remain shares of `W`.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.
        null: what sizes are compared with. `"siblings"`: other whole memories, as `groups` says, each set of as many as
            the target consists of. Everything that was learned as a whole leaves like traces, so this null tells what
            is the target's own. `"resampled"`: random examples of target and reference together, as many as the target
            has. Any whole memory differs from these nearly everywhere. `"analytic"`: a target with the second moments
            of all examples. It costs nothing, and a small target exceeds it by noise alone. The first two keep the rows
            of every input, and give p-values and intervals; the memory and time that this takes are logged before it
            starts, as a warning if it is over 1 GB or 30 s and `progress` is not False. None takes siblings where the
            concept has 19 or more of them and the filter allows it, and else the analytic null, as for statistics; also
            where the rows of pictures would take over 2 GB, which a warning says.
        groups: which memory each example belongs to: a function of an example, a list with a label for each reference
            example, or `{"target": [...], "reference": [...]}`. An example labelled None belongs to no memory. None
            goes by the subject that prompts share, where the target has one, and else takes blocks of consecutive
            reference examples, as long as the target. `memories` of the map says which it was.
        gradient: also says how much more the target's answers rely on a matrix than its siblings' do: `reliance`, from
            `-<dL/dW, W> / |dL/dW|`, by a backward pass over every memory. A significant score must then be significant
            in it too, so that text that is new to the model is starred less; the score itself stays as it is. Where a
            memory is a small part of its matrices, as in large models, the reliance finds it and the score does not:
            see `top(by="reliance")`. It hardly tells apart what scales the same thing: `W_V` and `W_O`, `W_Q` and
            `W_K`, the linear half of a gated MLP and its `W_out`.
        draws: how many sets at most; p-values are multiples of `1 / (draws + 1)`.
        seed: of the sets.

    Raises:
        ValueError: if checkpoints differ in shapes or in how they read the examples, a step comes twice, none can be
            measured, `reuse_reference` meets a null of sets, or the folder holds another track.
        TypeError: if something is no checkpoint, or no concept.

    Example:
        >>> from engram_interp import testbed
        >>> concept = testbed.authors().concept("Petra Dorlund")
        >>> steps = [(step, lambda name=name: testbed.load(name)) for step, name in enumerate(["base", "full"])]
        >>> found = track(steps, concept, null="analytic", components="gate")
        >>> found.formation()["learned"].tolist()
        [1]
    """

def criteria(
    model: nn.Module,
    engram: Engram | Concept,
    concept: Concept | None = None,
    *,
    alpha: Alpha = 1.0,
    statistics: Statistics | None = None,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    rtol: float | int | None = None,
    outliers: float | int = 0.0,
    absorb_bias: bool = True,
    ridge: float | int = 0.0,
    filter: Function = soft,
    delta_from: nn.Module | None = None,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> Criteria:
    """How well an engram meets the four criteria, by matrix and in the model's answers.

    `criteria(model, concept)` extracts the concept's engram with the options. `criteria(model, engram, concept)` tests
    an engram that is at hand, which has its options already. The null state is `model` with zeros for the engram's
    matrices (tabula rasa), or the model `delta_from`. The engram of a difference needs the model that it was taken
    from.

    Args:
        model: the model that the engram is part of. It is left as it was.
        engram: what is tested, or the concept whose engram is.
        concept: target and reference, as text or tokens, since the model runs on them; with an engram only.
        alpha: how strongly the engram is ablated and injected; see `Engram.ablate`.
        statistics: the concept's, if they are at hand. They are collected by default.
        components: names of components, `W_Q` to `W_U`, or short, `Q` to `U`. Of a plain module, paths of its modules,
            or patterns of such paths as `blocks.*.mlp`; a module stands for all that is in it. None means all that the
            model has.
        layers: one layer or several, by number. Of a plain module, depths in the order of calls. None means all. The
            unembedding lies in no layer: `layers` leaves it out, unless `components` names it.
        rtol: drops directions whose eigenvalue is at most this share of the largest. None means `d * 2**-23`, with `d`
            the size of the moment matrix. Raises ValueError if it is outside [0, 1).
        outliers: the share of directions, those with the largest eigenvalues, that do not set the cut: `rtol` is then
            relative to the largest eigenvalue of the others. 0.01 sets massive activations aside, of which one can hide
            most other directions below the cut. Raises ValueError if it is outside [0, 1).
        absorb_bias: treats a bias as one more column of its weight.
        ridge: uses `(S+ + S- + ridge I)^-1` in place of the pseudo-inverse (UCE; paper, Eq. 31). Its unit is that of
            the moments, which are sums over tokens. With a ridge nothing is dropped, unless `rtol` says so. Raises
            ValueError if it is negative.
        filter: how much is taken of a direction of which the target owns a share: `filters.soft` (the paper's),
            `filters.power(p)`, `filters.hard(tau)`, `filters.clip(gain)`, `filters.over(share)`, or any function from
            shares in [0, 1] to as many numbers.
        delta_from: takes the engram of `W - W_0`, with `W_0` the weights of this model of the same shape (paper, Eq.
            3). Sizes remain shares of `W`.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Raises:
        ValueError: if the engram is of another model, or of a difference without its `delta_from`, or the statistics
            lack something; see also `extract`.
        TypeError: if an engram comes with an option that says how to make one.

    Example:
        >>> import engram_interp as ei
        >>> model, corpus = ei.testbed.load("full"), ei.testbed.authors()
        >>> author, *others = corpus.forget10[:4]
        >>> concept = ei.Concept(author.examples, [example for other in others for example in other.examples])
        >>> found = ei.criteria(model, ei.extract(model, concept), concept)
        >>> list(found.to_frame().index)
        ['specificity', 'reactivation', 'sufficiency', 'necessity']
    """

def attribute(
    model: nn.Module,
    engram: Engram,
    examples: Sequence[Example],
    *,
    alpha: Number = 1.0,
    eos: bool = True,
    checked: int = 16,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> Attribution:
    """How much each matrix's and head's engram adds to the answers, directly and in total, and whether that is so.

    `total` is a first-order estimate from one backward pass. So some matrices, from all over its range, are ablated
    alone, one after the other, and the lead that the answers lose is `measured`: compare `correlation` before you rely
    on the rest.

    Args:
        model: the model that the engram is part of. It is left as it was.
        engram: what is attributed.
        examples: whose answers, as `(prompt, answer)` pairs.
        alpha: how strong the engram is: all numbers are for `alpha` times it.
        eos: whether the end-of-sequence token follows every answer and is scored.
        checked: how many matrices are ablated alone to measure their effect; 0 measures none.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Returns:
        See `Attribution`. The best other token is that of the unedited model throughout, so a lead is above 0 where the
        answer is right. Direct numbers leave a soft cap of the logits out.

    Raises:
        ValueError: if the engram is of another model, no answer token has another before it, or an option is out of
            range.

    Example:
        >>> import engram_interp as ei
        >>> model, corpus = ei.testbed.load("full"), ei.testbed.authors()
        >>> author = corpus.forget10[0]
        >>> engram = ei.extract(model, corpus.concept(author.name), layers=[2, 3])
        >>> found = ei.attribute(model, engram, author.examples, checked=6)
        >>> found.correlation > 0.9
        True
    """

def ablation_study(
    model: nn.Module,
    concept: Concept | Statistics,
    subsets: Mapping[str, Only] = PAPER,
    *,
    alpha: Alpha = "w-norm",
    score: ScoreFunction = answers,
    seed: int = 0,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    rtol: float | int | None = None,
    outliers: float | int = 0.0,
    absorb_bias: bool = True,
    ridge: float | int = 0.0,
    filter: Function = soft,
    delta_from: nn.Module | None = None,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> AblationStudy:
    """Ablate parts of a concept's engram, one after the other, and score the model each time (paper, Table 8).

    The engram is extracted once, whatever the number of subsets. The model is restored bit for bit.

    Args:
        model: the model.
        concept: what to look for, or its statistics.
        subsets: `Only(...)` and `AllBut(...)` by name: component types, layers, heads, single matrices. The default is
            the paper's. A model without gates has `W_in` in the gate's place there, and the names say so. Of a plain
            module it is each of its modules by itself.
        alpha: the strength of the whole edit, of which every subset is a part; see `Engram.ablate`. `"w-norm"` is over
            all matrices of the engram, whichever are in a subset.
        score: takes a model and the concept, and returns lists by name, with a number for each example. It is called
            without gradients. The default is `answers`, in batches of `batch_size`.
        seed: of the bootstrap over examples.
        components: names of components, `W_Q` to `W_U`, or short, `Q` to `U`. Of a plain module, paths of its modules,
            or patterns of such paths as `blocks.*.mlp`; a module stands for all that is in it. None means all that the
            model has.
        layers: one layer or several, by number. Of a plain module, depths in the order of calls. None means all. The
            unembedding lies in no layer: `layers` leaves it out, unless `components` names it.
        rtol: drops directions whose eigenvalue is at most this share of the largest. None means `d * 2**-23`, with `d`
            the size of the moment matrix. Raises ValueError if it is outside [0, 1).
        outliers: the share of directions, those with the largest eigenvalues, that do not set the cut: `rtol` is then
            relative to the largest eigenvalue of the others. 0.01 sets massive activations aside, of which one can hide
            most other directions below the cut. Raises ValueError if it is outside [0, 1).
        absorb_bias: treats a bias as one more column of its weight.
        ridge: uses `(S+ + S- + ridge I)^-1` in place of the pseudo-inverse (UCE; paper, Eq. 31). Its unit is that of
            the moments, which are sums over tokens. With a ridge nothing is dropped, unless `rtol` says so. Raises
            ValueError if it is negative.
        filter: how much is taken of a direction of which the target owns a share: `filters.soft` (the paper's),
            `filters.power(p)`, `filters.hard(tau)`, `filters.clip(gain)`, `filters.over(share)`, or any function from
            shares in [0, 1] to as many numbers.
        delta_from: takes the engram of `W - W_0`, with `W_0` the weights of this model of the same shape (paper, Eq.
            3). Sizes remain shares of `W`.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Raises:
        ValueError: if a subset names what the engram lacks, or is called `unedited`, or a score is not a finite number
            for each example; see also `extract`.
        TypeError: if a subset is anything but `Only` or `AllBut`.

    Example:
        >>> import engram_interp as ei
        >>> model, corpus = ei.testbed.load("full"), ei.testbed.authors()
        >>> author, *others = corpus.forget10[:4]
        >>> concept = ei.Concept(author.examples, [example for other in others for example in other.examples])
        >>> layers = {f"layer {i}": ei.Only(layers=i) for i in range(4)}
        >>> study = ei.ablation_study(model, concept, layers | {"all but heads 0": ei.AllBut("Q", heads=0)}, alpha=2.0)
        >>> list(study.to_frame())
        ['target accuracy', 'reference accuracy', 'target loss', 'reference loss']
    """

def interference(
    parts: Decomposition,
    concepts: Mapping[str, Sequence[Any]],
    *,
    alpha: Alpha = 1.0,
    filter: Function | None = None,
    eos: bool = True,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> Interference:
    """What ablating each concept takes from every other, in the model's answers.

    Args:
        parts: the decomposition.
        concepts: the examples of each concept to ablate and to score, by the decomposition's names; labelled ones of a
            plain module.
        alpha: how strongly each is ablated; see `Engram.ablate`.
        filter: how much of a direction is taken; None is the decomposition's own.
        eos: whether the end-of-sequence token follows every answer and is scored.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Raises:
        ValueError: if the decomposition lacks a name.
    """

def null_check(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    size: Number = 1.0,
    seed: int = 0,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Whether weights may change freely in directions that the data do not have, judged by the logits on these data.

    All matrices are perturbed at once, by random matrices in directions that their inputs have at no position of the
    examples (prompts and BOS included, since answers depend on them), and then by matrices of the same size in
    directions that they have. An expert that no position reaches stays as it is. An input has such directions only if
    there are fewer positions than dimensions.

    Args:
        model: a `HookedTransformer` or `TransformerBridge`. It is left as it was.
        examples: as `Concept` takes them.
        size: the size of a perturbation, as a share of its matrix's norm.
        seed: of the random matrices.
        components: names of components, `W_Q` to `W_U`, or short, `Q` to `U`. Of a plain module, paths of its modules,
            or patterns of such paths as `blocks.*.mlp`; a module stands for all that is in it. None means all that the
            model has.
        layers: one layer or several, by number. Of a plain module, depths in the order of calls. None means all. The
            unembedding lies in no layer: `layers` leaves it out, unless `components` names it.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Returns:
        A row for each perturbation: `matrices` and `directions` perturbed (the mean over matrices), `largest_change`
        and `mean_change` of a logit, `answers_changed`, the share of positions whose argmax changes, and
        `largest_logit` of the unperturbed model, to judge rounding by.

    Raises:
        ValueError: if the examples have every direction, weights are in half precision (whose rounding leaves the
            null), or `size` is 0 or less.

    Example:
        >>> from engram_interp import testbed
        >>> found = null_check(testbed.load("full"), ["Where was Petra Dorlund born?"])
        >>> bool(found.at["through the null of the data", "largest_change"] < 1e-3)
        True
    """

def score(
    model: nn.Module,
    groups: Mapping[str, Sequence[Any]],
    *,
    eos: bool = True,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> dict[str, Score]:
    """Accuracy and loss of every group of examples, in one pass over all of them.

    Args:
        model: the model to score.
        groups: examples by name, each as `Concept` takes them. The answer of a pair is scored, and every token of a
            string. Of a plain module, labelled batches, as the sides of `Concept.from_dataset`: an example counts as
            one token, right if its label has the largest output.
        eos: whether the end-of-sequence token follows every answer and is scored.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Raises:
        ValueError: if no counted token of a group has another token before it.

    Example:
        >>> from engram_interp import testbed
        >>> facts = testbed.authors().world_examples
        >>> score(testbed.load("full"), {"world": facts})["world"].accuracy > 0.97
        True
    """

def greedy_answers(
    model: nn.Module,
    prompts: Sequence[str],
    max_new_tokens: int = 16,
    *,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> list[str]:
    """The model's greedy answer to every prompt, up to its end-of-sequence token.

    Keys and values are cached. Prompts of similar length run in one batch where the model takes padding in front of
    them (a bridge with rotary positions), and prompts of equal length elsewhere.

    Args:
        model: a model with a tokenizer.
        prompts: questions, as the prompts of a `Concept`.
        max_new_tokens: where to cut an answer that does not end by itself, 1 or more. The end of the context cuts it
            too.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Raises:
        ValueError: if the model cannot read a prompt, or `max_new_tokens` is below 1.
        TypeError: if a prompt is not text, or `max_new_tokens` is not a whole number.

    Example:
        >>> from engram_interp import testbed
        >>> greedy_answers(testbed.load("full"), ["What is the capital of Norway?"])
        ['Oslo']
    """

def measure(
    model: nn.Module,
    dataset: Benchmark,
    *,
    classifier: Classifier | None = None,
    max_new_tokens: int | None = None,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> Run:
    """What a model answers to every question, in one teacher-forced pass and one pass of greedy answers.

    Args:
        model: a model with a tokenizer.
        dataset: the benchmark. Use `dataset.templated(tokenizer)` if the model reads chats.
        classifier: from texts to the probability that each is fluent, for example `metrics.gibberish_detector()`.
            Without one, fluency is reported as missing.
        max_new_tokens: the length at which a generated answer is cut. None means the length of the longest true answer.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Raises:
        ValueError: if the model cannot read an example.

    Example:
        >>> from engram_interp import testbed
        >>> few = testbed.benchmark().asking(lambda questions: questions[:20])
        >>> run = measure(testbed.load("full"), few)
        >>> bool(run.parts["forget"]["exact_memorization"].mean() > 0.95)
        True
    """

def evaluate(
    model: nn.Module,
    dataset: Benchmark,
    reference_runs: Mapping[str, Run],
    *,
    classifier: Classifier | None = None,
    max_new_tokens: int | None = None,
    n_resamples: int = 500,
    seed: int = 0,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> Evaluation:
    """Every score of an unlearned model: `measure`, then `Run.evaluate`.

    Args:
        model: see `measure`.
        dataset: see `measure`.
        reference_runs: see `Run.evaluate`.
        classifier: see `measure`.
        max_new_tokens: see `measure`.
        n_resamples: see `Run.evaluate`.
        seed: see `Run.evaluate`.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Raises:
        ValueError: see `measure` and `Run.evaluate`.

    Example:
        >>> from engram_interp import testbed
        >>> few = testbed.benchmark().asking(lambda questions: questions[:20])
        >>> runs = {name: measure(testbed.load(name), few) for name in ("full", "retain")}
        >>> found = evaluate(testbed.load("full"), few, runs, n_resamples=20)
        >>> round(found["memorization"], 6), found.missing
        (0.0, ('ff',))
    """

def choose_alpha(
    model: nn.Module,
    engram: Engram,
    concept: Concept,
    keep: Number = 0.98,
    *,
    check: Sequence[Any] | None = None,
    measure: str | UserScore = "accuracy",
    start: Number = 1.0,
    rel_tol: Number = 0.05,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> AlphaChoice:
    """The strongest ablation that keeps what its projector has not seen.

    A third of the reference is held out: the engram is fitted again without it, and its cost is measured there. Where
    that third is too short to tell, each third is held out in turn. The strength is doubled (or halved), then
    quadrupled, and so on, until it is bracketed, then bisected on a logarithmic scale. It keeps enough if the lower end
    of a 90 % interval does. Every trial edits the model in place and restores it bit for bit.

    Args:
        model: the model that the engram is part of.
        engram: what to ablate, as `extract` makes it of this concept, or a part of that. Any other engram needs
            `check`.
        concept: its target and reference, as text or tokens. Statistics are not enough: the model runs on them.
        keep: the share of the measure that must stay, in (0, 1].
        check: ten examples or more that must be kept and that the engram was not made from. None holds out a part of
            the reference.
        measure: what is kept. `"accuracy"`: right answer tokens. `"loss"`: the loss before over the loss after, so that
            0.98 lets it rise by a fiftieth. Or a function of a model and a list of examples that returns a score for
            each; more is better. Of a plain module, it gets the model and a batch, with its `inputs` and `labels`; the
            first two need labels.
        start: the strength to try first.
        rel_tol: the search stops when the bracket is this narrow, as a share of alpha, or as narrow as floats allow.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Raises:
        ValueError: if `keep`, `start` or `rel_tol` is out of range; if there are fewer than ten examples to measure the
            cost on, or the model gets nothing of them right; if the engram is not the one that `extract` makes of this
            concept and `check` is not given.

    Example:
        >>> import engram_interp as ei
        >>> model, corpus = ei.testbed.load("full"), ei.testbed.authors()
        >>> author, *others = corpus.forget10[:4]
        >>> concept = ei.Concept(author.examples, [example for other in others for example in other.examples])
        >>> choice = ei.choose_alpha(model, ei.extract(model, concept), concept, keep=0.9)
        >>> bool(choice.chosen["kept_low"] >= 0.9)
        True
    """

def rewrite(
    model: nn.Module,
    concept: Concept,
    values: Mapping[str, Float[Tensor, 'n out']],
    *,
    weight: float | int = 1.0,
    rtol: float | int | None = None,
    outliers: float | int = 0.0,
    absorb_bias: bool = True,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> Engram:
    """The change that gives matrices chosen outputs at the target's counted positions: `.inject(model)` makes it.

    Args:
        model: the model.
        concept: the target's examples, which say where outputs are chosen, and the reference, which should stay.
        values: by key, the wanted outputs `V*`, a row for each counted position in the order of examples.
            `values_like` takes them from other examples. Each matrix is changed on the inputs that it has in the
            unedited model; if several are changed, later ones meet other inputs than these.
        weight: how much the target counts against the reference; `math.inf` fits it exactly (ROME).
        rtol: drops directions whose eigenvalue is at most this share of the largest. None means `d * 2**-23`, with `d`
            the size of the moment matrix. Raises ValueError if it is outside [0, 1).
        outliers: the share of directions, those with the largest eigenvalues, that do not set the cut: `rtol` is then
            relative to the largest eigenvalue of the others. 0.01 sets massive activations aside, of which one can hide
            most other directions below the cut. Raises ValueError if it is outside [0, 1).
        absorb_bias: treats a bias as one more column of its weight.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Raises:
        ValueError: if the model lacks a key, values have another shape or are not finite, or `weight` is 0 or less; see
            also `collect`.

    Example:
        >>> import engram_interp as ei
        >>> model, facts = ei.testbed.load("full"), ei.testbed.authors().world_examples
        >>> moved = [("What is the capital of Norway?", "Rome")]
        >>> concept = ei.Concept(moved, [fact for fact in facts if fact[0] != moved[0][0]])
        >>> values = ei.values_like(model, moved, [("What is the capital of Italy?", "Rome")], layer=3)
        >>> list(ei.rewrite(model, concept, values, weight=100.0))
        ['blocks.3.mlp.W_out']
    """

def values_like(
    model: nn.Module,
    examples: Sequence[Example],
    like: Sequence[Example],
    layer: int,
    *,
    positions: str = "predicting",
    eos: bool = True,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> dict[str, Float[Tensor, 'n d_model']]:
    """Outputs of a layer's `W_out` that make the residual stream after it what it is in other examples, for `rewrite`.

    To have one example answered as another is, give both the wanted answer: `("Where was A born?", "in Lima")` like
    `("Where was B born?", "in Lima")`, who was. The later the layer, the surer the answer. What earlier layers and
    other positions say stays as it is.

    Args:
        model: the model.
        examples: the target.
        like: for each example, the one to be like at its counted positions: the same number of them, in order.
        layer: the layer of `W_out`.
        positions: `"predicting"` counts those whose output gives the answer's tokens: the prompt's last token to the
            answer's last but one (to its last if EOS follows). `"answer"` counts the answer's own tokens, as the paper
            does. `"both"` counts either, and `"all"` every token but BOS. Raises ValueError if it is another word.
        eos: whether the end-of-sequence token follows every answer. It is then one of the answer's tokens.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Raises:
        ValueError: if the examples do not pair up, the model lacks the layer, or its `W_out` does not write into the
            residual stream as it is.
    """

def task_vector(
    model: nn.Module,
    finetuned: nn.Module,
    base: nn.Module,
    *,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
) -> Engram:
    """The difference of two models' weights, as an engram of a third model (or of one of the two).

    Args:
        model: what it will be subtracted from.
        finetuned: the model after fine-tuning, of the same shapes.
        base: the model before.
        components: names of components, `W_Q` to `W_U`, or short, `Q` to `U`. Of a plain module, paths of its modules,
            or patterns of such paths as `blocks.*.mlp`; a module stands for all that is in it. None means all that the
            model has.
        layers: one layer or several, by number. Of a plain module, depths in the order of calls. None means all. The
            unembedding lies in no layer: `layers` leaves it out, unless `components` names it.

    Raises:
        ValueError: if shapes or weight processing differ, or a component or layer is missing.

    Example:
        >>> from engram_interp import testbed
        >>> model = testbed.load("retain")
        >>> learnt = task_vector(model, testbed.load("full"), testbed.load("base"), components="gate")
        >>> 0 < learnt.wnorm()["blocks.1.mlp.W_gate"] < 1
        True
    """

def graft(
    model: nn.Module,
    base: nn.Module,
    concept: Concept,
    *,
    by: str = "low rank",
    share: float | int | None = None,
    carries: float | int = 0.95,
    shares: Collection[float | int] = SHARES,
    steps: int = 100,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    rtol: float | int | None = None,
    outliers: float | int = 0.0,
    absorb_bias: bool = True,
    ridge: float | int = 0.0,
    filter: Function = soft,
    delta_from: nn.Module | None = None,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> Graft:
    """The smallest part of what training changed that carries a memory into the model before.

    Args:
        model: the trained model.
        base: the model before, of the same class and shapes.
        concept: the memory, and what it is told apart from.
        by: what ranks the parts. `"entries"`: single entries, by those of the engram of the difference, `|Delta+|`.
            `"outputs"`: single entries, by how much each brings of what that engram puts out, `Delta * (Delta+ S+)`.
            `"heads"`: heads, and whole matrices where there are none, by the mean square of these entries.
            `"matrices"`: the same of whole matrices. `"low rank"`: the output directions in which `Delta+` puts out
            most, `r (out + in)` numbers for `r` of them. `"magnitude"`: single entries, by `|W - W_0|`, whatever the
            memory. `"learned"`: single entries, by a mask that a gradient finds on the target's answers.
        share: the share of all entries that is grafted, in [0, 1]. None takes the smallest of `shares` that carries the
            memory.
        carries: what it means to carry it: this share of the accuracy that training has brought, on every second
            example of the target.
        shares: what is tried. Every graft holds all smaller ones, but for learned masks, which are learned for each.
        steps: of the learned mask.
        components: names of components, `W_Q` to `W_U`, or short, `Q` to `U`. Of a plain module, paths of its modules,
            or patterns of such paths as `blocks.*.mlp`; a module stands for all that is in it. None means all that the
            model has.
        layers: one layer or several, by number. Of a plain module, depths in the order of calls. None means all. The
            unembedding lies in no layer: `layers` leaves it out, unless `components` names it.
        rtol: drops directions whose eigenvalue is at most this share of the largest. None means `d * 2**-23`, with `d`
            the size of the moment matrix. Raises ValueError if it is outside [0, 1).
        outliers: the share of directions, those with the largest eigenvalues, that do not set the cut: `rtol` is then
            relative to the largest eigenvalue of the others. 0.01 sets massive activations aside, of which one can hide
            most other directions below the cut. Raises ValueError if it is outside [0, 1).
        absorb_bias: treats a bias as one more column of its weight.
        ridge: uses `(S+ + S- + ridge I)^-1` in place of the pseudo-inverse (UCE; paper, Eq. 31). Its unit is that of
            the moments, which are sums over tokens. With a ridge nothing is dropped, unless `rtol` says so. Raises
            ValueError if it is negative.
        filter: how much is taken of a direction of which the target owns a share: `filters.soft` (the paper's),
            `filters.power(p)`, `filters.hard(tau)`, `filters.clip(gain)`, `filters.over(share)`, or any function from
            shares in [0, 1] to as many numbers.
        delta_from: takes the engram of `W - W_0`, with `W_0` the weights of this model of the same shape (paper, Eq.
            3). Sizes remain shares of `W`.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Returns:
        The graft. With `share=None` its `curve` has a row for each share that was tried: accuracy and loss of
        `choice`, the examples on which it was chosen, of `target`, the others, and of `reference`.

    Raises:
        ValueError: if `by` is another word, a share is outside [0, 1], shapes differ, `delta_from` is given (it is
            `base`), or the trained model answers no more of the target than the base.
        TypeError: if `concept` is no `Concept`.

    Example:
        >>> from engram_interp import testbed
        >>> concept = testbed.authors().concept("Petra Dorlund")
        >>> small = graft(testbed.load("full"), testbed.load("base"), concept, share=0.03)
        >>> grafted = small.inject(testbed.load("base"))
    """

def protect(
    model: nn.Module,
    engrams: Keepable | Iterable[Keepable],
    *,
    filter: Function = EVERYTHING,
    positions: str = "every",
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    rtol: float | int | None = None,
    outliers: float | int = 0.0,
    absorb_bias: bool = True,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> Protection:
    """Keeps memories while the model learns something else: for the length of a `with` block, or until `remove`.

    Every step that an optimizer takes is projected: `W - W_before` becomes `(W - W_before)(I - g(P+))`, with `P+` of
    everything that is kept. Embeddings change by as much less as what is kept owns of a token. Everything else is
    frozen: norms, biases that are zero, matrices that are not asked for. So nothing moves what the model says of what
    is kept. Entries of a graft are frozen, and all others are free.

    Directions below the cut are free. For inputs narrower than 256, whose moments are in float64, the default `rtol` is
    1e-12, so that small parts of kept inputs are kept beside a massive activation; for wider ones a warning names the
    inputs of which one direction sets the cut. Weights in half precision are kept as well as their rounding allows.

    Args:
        model: the model that is trained. Its weights are those whose inputs are kept.
        engrams: what is kept: concepts, statistics, engrams that `extract` made, grafts, or several of them in a list.
            What references have in common with a target is kept with it.
        filter: how much is kept of a direction of which the kept concepts own a share. The default keeps every
            direction of theirs whole: their outputs do not move, and nothing can be learned in these directions. With
            more positions than an input has dimensions these are all directions; `filters.hard(0.5)` keeps what is
            mostly theirs, and `filters.soft` as much of each direction as they own. A hard filter keeps what it keeps
            by an orthogonal projector, so that steps in other directions are not made longer.

        positions: `"every"` keeps every position of the target's texts, also BOS: attention reads them all, so only
            then do answers stay exactly as they are. `"counted"` keeps the positions that the concept counts, which
            leaves more to learn in. Of statistics, and of batches with a mask, what they count is kept.
        components: names of components, `W_Q` to `W_U`, or short, `Q` to `U`. Of a plain module, paths of its modules,
            or patterns of such paths as `blocks.*.mlp`; a module stands for all that is in it. None means all that the
            model has.
        layers: one layer or several, by number. Of a plain module, depths in the order of calls. None means all. The
            unembedding lies in no layer: `layers` leaves it out, unless `components` names it.
        rtol: drops directions whose eigenvalue is at most this share of the largest. None means `d * 2**-23`, with `d`
            the size of the moment matrix. Raises ValueError if it is outside [0, 1).
        outliers: the share of directions, those with the largest eigenvalues, that do not set the cut: `rtol` is then
            relative to the largest eigenvalue of the others. 0.01 sets massive activations aside, of which one can hide
            most other directions below the cut. Raises ValueError if it is outside [0, 1).
        absorb_bias: treats a bias as one more column of its weight.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Returns:
        A context manager, with `moved()`, how far outputs of kept inputs have moved.

    Raises:
        ValueError: if there is nothing to keep, or concepts come with grafts.
        TypeError: if something else is given, or an engram that does not know what it was made from.
        RuntimeError: if the model is protected already.

    Example:
        >>> import torch
        >>> from engram_interp import testbed
        >>> model, concept = testbed.load("full"), testbed.authors().concept("Petra Dorlund")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with protect(model, concept) as kept:
        ...     model(torch.arange(9)[None], return_type="loss").backward()
        ...     optimizer.step()
        >>> bool(kept.moved()["moved"].max() < 1e-5)
        True
    """

def explore(
    model: nn.Module,
    concepts: Concept | Sequence[Concept],
    *,
    n_matrices: int = 8,
    alphas: Sequence[Number] | None = None,
    keep: Number = 0.98,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    rtol: float | int | None = None,
    outliers: float | int = 0.0,
    absorb_bias: bool = True,
    ridge: float | int = 0.0,
    filter: Function = soft,
    delta_from: nn.Module | None = None,
    progress: bool | None = None,
    batch_size: int | None = None,
    null: str | None = None,
    groups: Any = None,
    gradient: bool = False,
    draws: int = 199,
    seed: int = 0,
) -> Exploration:
    """Maps memories, answers questions at several strengths, and looks into matrices: a page to click through.

    Args:
        model: the model. It is left unchanged.
        concepts: one or several, with names of their own.
        n_matrices: how many matrices of each memory are looked into, those that stand out most. `serve` looks into any
            other when it is clicked, as long as the model is at hand.
        alphas: the strengths of the slider; 0 is added. None chooses one (see `choose_alpha`) and takes eight around
            it; around 1 if none can be chosen, which a warning says.
        keep: see `choose_alpha`.
        components: names of components, `W_Q` to `W_U`, or short, `Q` to `U`. Of a plain module, paths of its modules,
            or patterns of such paths as `blocks.*.mlp`; a module stands for all that is in it. None means all that the
            model has.
        layers: one layer or several, by number. Of a plain module, depths in the order of calls. None means all. The
            unembedding lies in no layer: `layers` leaves it out, unless `components` names it.
        rtol: drops directions whose eigenvalue is at most this share of the largest. None means `d * 2**-23`, with `d`
            the size of the moment matrix. Raises ValueError if it is outside [0, 1).
        outliers: the share of directions, those with the largest eigenvalues, that do not set the cut: `rtol` is then
            relative to the largest eigenvalue of the others. 0.01 sets massive activations aside, of which one can hide
            most other directions below the cut. Raises ValueError if it is outside [0, 1).
        absorb_bias: treats a bias as one more column of its weight.
        ridge: uses `(S+ + S- + ridge I)^-1` in place of the pseudo-inverse (UCE; paper, Eq. 31). Its unit is that of
            the moments, which are sums over tokens. With a ridge nothing is dropped, unless `rtol` says so. Raises
            ValueError if it is negative.
        filter: how much is taken of a direction of which the target owns a share: `filters.soft` (the paper's),
            `filters.power(p)`, `filters.hard(tau)`, `filters.clip(gain)`, `filters.over(share)`, or any function from
            shares in [0, 1] to as many numbers.
        delta_from: takes the engram of `W - W_0`, with `W_0` the weights of this model of the same shape (paper, Eq.
            3). Sizes remain shares of `W`.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.
        null: what sizes are compared with. `"siblings"`: other whole memories, as `groups` says, each set of as many as
            the target consists of. Everything that was learned as a whole leaves like traces, so this null tells what
            is the target's own. `"resampled"`: random examples of target and reference together, as many as the target
            has. Any whole memory differs from these nearly everywhere. `"analytic"`: a target with the second moments
            of all examples. It costs nothing, and a small target exceeds it by noise alone. The first two keep the rows
            of every input, and give p-values and intervals; the memory and time that this takes are logged before it
            starts, as a warning if it is over 1 GB or 30 s and `progress` is not False. None takes siblings where the
            concept has 19 or more of them and the filter allows it, and else the analytic null, as for statistics; also
            where the rows of pictures would take over 2 GB, which a warning says.
        groups: which memory each example belongs to: a function of an example, a list with a label for each reference
            example, or `{"target": [...], "reference": [...]}`. An example labelled None belongs to no memory. None
            goes by the subject that prompts share, where the target has one, and else takes blocks of consecutive
            reference examples, as long as the target. `memories` of the map says which it was.
        gradient: also says how much more the target's answers rely on a matrix than its siblings' do: `reliance`, from
            `-<dL/dW, W> / |dL/dW|`, by a backward pass over every memory. A significant score must then be significant
            in it too, so that text that is new to the model is starred less; the score itself stays as it is. Where a
            memory is a small part of its matrices, as in large models, the reliance finds it and the score does not:
            see `top(by="reliance")`. It hardly tells apart what scales the same thing: `W_V` and `W_O`, `W_Q` and
            `W_K`, the linear half of a gated MLP and its `W_out`.
        draws: how many sets at most; p-values are multiples of `1 / (draws + 1)`.
        seed: of the sets.

    Raises:
        TypeError: if `alphas` is one number.
        ValueError: if two concepts have one name, `alphas` is empty or holds a negative number, or `n_matrices` is
            negative; see also `localize`.

    Example:
        >>> from engram_interp import testbed
        >>> model, examples = testbed.load("full"), testbed.authors().examples
        >>> concept = Concept(examples[:20], examples[20:60], name="Petra Dorlund")
        >>> found = explore(model, concept, n_matrices=0, alphas=[8], components="gate", layers=[0, 1])
        >>> found.memory().strengths.alphas
        [0.0, 8.0]
    """

def concept_from_sae(
    model: nn.Module,
    sae: Any,
    feature: Index | Iterable[Index],
    corpus: Corpus,
    *,
    name: str | None = None,
    per: str = "token",
    share: float | int = 0.0,
    threshold: float | int = 0.0,
    quantile: float | int | None = None,
    reference: str = "rest",
    max_tokens: int | None = None,
    seed: int = 0,
    positions: str = "predicting",
    eos: bool = True,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> SaeConcept:
    """A concept from where SAE features fire in a corpus, and where they do not.

    BOS and padding are on neither side. Of `(prompt, answer)` pairs, the positions that count are. A whole example
    fires if its text does, prompt and answer; a token fires only where it counts.

    Args:
        model: the `HookedTransformer` or `TransformerBridge` that the SAE was trained on.
        sae: any `sae_lens.SAE`, transcoders included. A training SAE is read as the SAE that it would save.
        feature: the index of a feature, or several: then the target is where any of them fires.
        corpus: examples as `Concept` takes them, or tokens `[n pos]`. In the latter, BOS and padding do not count, and
            padding at the start of a row is removed.
        name: what reports and files call the concept. None names it by its features.
        per: `"token"` puts every token on a side by itself; `"example"` puts all counted tokens of an example on one
            side.
        share: with `per="example"`, the share of an example's tokens that must fire for the example to fire, in [0, 1].
            With 0, one token is enough.
        threshold: the smallest activation that counts as firing, 0 or more. With 0, any activation above zero counts.
        quantile: sets the threshold of each feature to this quantile of its activations above zero in the corpus, in
            [0, 1]. Raises ValueError if `threshold` is given too.
        reference: `"rest"` is every silent token. `"matched"` is the silent tokens that fire elsewhere in the corpus,
            and `"matched-positions"` the silent tokens at positions at which others fire, so that the engram is not
            just that of a word or a place. Firing tokens without a silent counterpart then leave the target. The two
            sides may still hold different numbers of a kind. An edit spares only what its reference holds, so use
            matched references for maps.
        max_tokens: how many tokens each side keeps, drawn at random, 1 or more. None keeps all.
        seed: the seed of that draw.
        positions: `"predicting"` counts those whose output gives the answer's tokens: the prompt's last token to the
            answer's last but one (to its last if EOS follows). `"answer"` counts the answer's own tokens, as the paper
            does. `"both"` counts either, and `"all"` every token but BOS. Raises ValueError if it is another word.
        eos: whether the end-of-sequence token follows every answer. It is then one of the answer's tokens.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Raises:
        ImportError: if sae-lens is not installed.
        TypeError: if `sae` is not an SAE, or a feature is not an index.
        ValueError: if the SAE does not have a feature; if a feature fires nowhere or everywhere in the corpus; if the
            SAE has no hook name, or belongs to another model, or reads another width; if an option is out of range.

    Example:
        >>> import engram_interp as ei
        >>> model, sae, corpus = ei.testbed.load("full"), ei.testbed.load_sae(), ei.testbed.authors()
        >>> examples = corpus.forget10[1].examples + corpus.world_examples
        >>> ranked = ei.rank_features(model, sae, ["Where was Kara Jenquist born?"], examples)
        >>> concept = ei.concept_from_sae(model, sae, ranked["feature"][0], examples, per="example")
        >>> len(concept.target) + len(concept.reference) == len(examples)
        True
    """

def concepts_from_sae(
    model: nn.Module,
    sae: Any,
    features: Iterable[Index],
    corpus: Corpus,
    *,
    per: str = "token",
    share: float | int = 0.0,
    threshold: float | int = 0.0,
    quantile: float | int | None = None,
    positions: str = "predicting",
    eos: bool = True,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> dict[str, list[Example]]:
    """Examples by feature, `"feature 3"`, and the `"rest"`, for `decompose`. Every token is in one of them.

    Where several features fire, a token goes to the one that is nearest to its largest activation in the corpus. With
    `per="example"`, all tokens of an example go to one feature. The rest is where no feature fires; it is left out if
    one always does.

    Args:
        model: see `concept_from_sae`.
        sae: see `concept_from_sae`.
        features: their indices.
        corpus: see `concept_from_sae`.
        per: `"token"` puts every token on a side by itself; `"example"` puts all counted tokens of an example on one
            side.
        share: with `per="example"`, the share of an example's tokens that must fire for the example to fire, in [0, 1].
            With 0, one token is enough.
        threshold: the smallest activation that counts as firing, 0 or more. With 0, any activation above zero counts.
        quantile: sets the threshold of each feature to this quantile of its activations above zero in the corpus, in
            [0, 1]. Raises ValueError if `threshold` is given too.
        positions: `"predicting"` counts those whose output gives the answer's tokens: the prompt's last token to the
            answer's last but one (to its last if EOS follows). `"answer"` counts the answer's own tokens, as the paper
            does. `"both"` counts either, and `"all"` every token but BOS. Raises ValueError if it is another word.
        eos: whether the end-of-sequence token follows every answer. It is then one of the answer's tokens.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Raises:
        ValueError: if no token goes to a feature, which is then named; see also `concept_from_sae`.
    """

def rank_features(
    model: nn.Module,
    sae: Any,
    examples: Concept | Corpus,
    reference: Corpus | None = None,
    *,
    threshold: float | int = 0.0,
    confidence: float = 0.95,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Which features fire in these examples more than in others? One row per feature, the largest difference first.

    Args:
        model: the model that the SAE was trained on.
        sae: any `sae_lens.SAE`.
        examples: what the features should stand for. A `Concept` brings its own reference.
        reference: other examples. Without them, features are ordered by how often they fire.
        threshold: the smallest activation that counts as firing. With 0, any activation above zero counts.
        confidence: the level of each interval by itself. The first of many features is there partly by luck, which the
            intervals do not correct for.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Returns:
        A table with the columns `feature`; `target_rate` and `reference_rate`, the shares of examples in which it
        fires, prompts included (in examples given as tokens: at tokens that count); their `difference` and its interval
        from `low` to `high` (Newcombe 1998, method 10; without a reference, Wilson's interval of `target_rate`);
        `target_token_rate` and `reference_token_rate`, the shares of tokens; `target_activation` and
        `reference_activation`, the mean over examples of the largest activation.

    Raises:
        ImportError: if sae-lens is not installed.
        ValueError: if `confidence` is outside (0, 1), `threshold` is negative, or both a `Concept` and a reference are
            given; see also `concept_from_sae`.
    """

def reconstruction(
    model: nn.Module,
    sae: Any,
    corpus: Corpus,
    *,
    progress: bool | None = None,
    batch_size: int | None = None,
) -> Reconstruction:
    """Does an SAE fit a model? How much it explains of the activations over a corpus, without BOS and padding.

    An SAE of another layer, another checkpoint or differently processed weights runs without an error and explains
    little. So check this first.

    Args:
        model: the model that the SAE was trained on.
        sae: any `sae_lens.SAE`.
        corpus: see `concept_from_sae`.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.

    Raises:
        NotImplementedError: if `sae` is a transcoder, which does not reconstruct the activation that it reads.
        ValueError: if all activations of the corpus are equal; see also `concept_from_sae`.
    """
