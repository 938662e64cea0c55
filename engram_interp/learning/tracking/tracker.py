"""One checkpoint after the other: what is measured of each, and where it is kept until the trajectory is put together.

A folder holds a file for each step, and the matrices of the last one, from which the next is told apart. So one model
is in memory at a time, and a track that was interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from engram_interp.answers.scoring import score
from engram_interp.common.storage import fingerprint
from engram_interp.common.writing import replacing
from engram_interp.concepts.concept import REFERENCE, TARGET, Concept, require_concept
from engram_interp.concepts.digest import key_of
from engram_interp.engrams.parts import Part
from engram_interp.engrams.weights import matrix_in, without_bias
from engram_interp.learning.tracking.measured import Measured
from engram_interp.linalg.filters import filter_name
from engram_interp.linalg.norms import share
from engram_interp.linalg.singular import Singular, singular
from engram_interp.maps.decomposition import decompose
from engram_interp.maps.localization import located
from engram_interp.maps.localization_map import LocalizationMap
from engram_interp.maps.overlap import overlap
from engram_interp.models import Adapter, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.models.identity import weights_digest
from engram_interp.models.sites import parameter_paths
from engram_interp.options import Compare, Keep, Run, Solve, Which
from engram_interp.statistics.collect import collect, moments_of
from engram_interp.statistics.moments import AnyMoment
from engram_interp.statistics.statistics import Statistics

logger = logging.getLogger("engram_interp")

OWN = ("moved", "delta")
"""The columns that a track adds to a map's: `|W_t - W_t-1| / |W_t|`, and the same of its engram."""
ANSWERS = ["concept", "side", "accuracy", "loss", "n_tokens"]
OVERLAPS = ["a", "b", "overlap", "over_chance", "smallest_angle", "mean_angle"]
HEADER = [one.name for one in fields(LocalizationMap) if one.name != "table"]
SETTINGS, WEIGHTS = "track.json", "weights"


class UnlikeError(ValueError):
    """Says that a checkpoint is of another model than those before."""


@dataclass(frozen=True)
class How:
    """How checkpoints are measured.

    Attributes:
        which, solve, run, compare: see `localize`.
        reuse_reference: for how many checkpoints the reference's statistics serve; 1 takes them anew at each.
    """

    which: Which
    solve: Solve
    run: Run
    compare: Compare
    reuse_reference: int = 1

    def to_dict(self) -> dict[str, Any]:
        """What may not change if a track goes on."""
        solve = {name: value for name, value in vars(self.solve).items() if name not in ("filter", "delta_from")}
        base, groups = self.solve.delta_from, self.compare.groups
        solve["delta_from"] = None if base is None else weights_digest(base)
        compare = asdict(replace(self.compare, groups=None))
        compare["groups"] = repr(groups) if isinstance(groups, (list, tuple, dict)) else None
        return {
            "which": json.loads(json.dumps(asdict(self.which), default=str)),
            "solve": {**solve, "filter": filter_name(self.solve.filter)},
            "compare": compare,
            "reuse_reference": self.reuse_reference,
        }


def named(concepts: Concept | Mapping[str, Concept] | Iterable[Concept]) -> dict[str, Concept]:
    """Concepts by name.

    Raises:
        ValueError: if there is none, or two have one name.
        TypeError: if one is no `Concept`, or can be read once only.
    """
    if isinstance(concepts, Statistics):
        raise TypeError("a track reads examples at each checkpoint: give the Concept in place of its statistics")
    if isinstance(concepts, Mapping):
        if wrong := [name for name in concepts if not isinstance(name, str)]:
            raise TypeError(f"concepts must have names that are strings; got {wrong[0]!r}")
        found = dict(cast(Mapping[str, Concept], concepts))
    else:
        listed = [concepts] if isinstance(concepts, Concept) else list(concepts)
        for one in listed:
            require_concept(one)
        names = [one.name or f"concept {place}" for place, one in enumerate(listed)]
        if len(set(names)) < len(names):
            raise ValueError(f"concepts must have different names; got {', '.join(names)}")
        found = dict(zip(names, listed, strict=True))
    if not found:
        raise ValueError("concepts must hold one concept or more; got none")
    for name, one in found.items():
        require_concept(one)
        if any(getattr(side, "is_once", False) for side in one.sides.values()):
            raise TypeError(f"the concept {name!r} holds an iterator, which can be read for one checkpoint only")
    return found


class Tracker:
    """Measures checkpoints, and keeps what it found in a folder.

    Args:
        concepts: by name.
        how: how they are measured.
        folder: where results are kept. None takes a folder that goes with the tracker.

    Attributes:
        failed: what could not be measured, and why, by name.

    Raises:
        ValueError: if the folder holds a track of other concepts or options.
    """

    def __init__(self, concepts: Mapping[str, Concept], how: How, folder: Path | None) -> None:
        self.concepts, self.how = dict(concepts), how
        self.failed: dict[str, str] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="engram-track-")) if folder is None else folder
        if folder is None:
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._known: dict[str, Any] = {}
        self._references: dict[str, tuple[int, int, Statistics]] = {}
        self._open()

    @property
    def steps(self) -> list[int]:
        """The steps that are measured."""
        return sorted(
            int(path.stem.removeprefix("step-")) for path in self.folder.glob(f"step-{'[0-9]' * 10}.safetensors")
        )

    @property
    def files(self) -> list[Path]:
        """What was found, a file for each step."""
        return [self._file(step) for step in self.steps]

    def has(self, step: int, mark: str | None = None) -> bool:
        """Whether a step is measured, and its file whole.

        Args:
            step: the step.
            mark: what tells its checkpoint from others; None if nothing does.

        Raises:
            ValueError: if another checkpoint was measured as this step.
        """
        if not self._file(step).is_file():
            return False
        try:
            known = Measured.load(self._file(step)).facts.get("mark")
        except ValueError as error:
            logger.warning("step %d is measured again: %s", step, error)
            self._file(step).unlink()
            return False
        if mark is not None and known is not None and mark != known:
            raise ValueError(f"{self.folder} holds another checkpoint of step {step}: give another folder")
        return True

    def fail(self, name: str, error: Exception) -> None:
        """Note a checkpoint that cannot be measured."""
        self.failed[name] = f"{type(error).__name__}: {error}"
        logger.warning("%s is left out: %s", name, error)

    @exclusive
    def measure(self, model: nn.Module, step: int, name: str, mark: str | None = None, is_last: bool = False) -> None:
        """Measure a checkpoint, and write down what was found.

        Args:
            model: the checkpoint.
            step: when it was written.
            name: what tables call it.
            mark: what tells it from others.
            is_last: whether its reference must be read anew, so that it is the map that `localize` makes.

        Raises:
            UnlikeError: if its matrices or its tokens are others than those of the checkpoints before.
            ValueError: if it cannot be measured; see `localize`.
        """
        adapter = adapt(model)
        self._require_alike(adapter, step)

        def map_of(one: str, looking: _Looking) -> tuple[LocalizationMap, dict[str, Any]]:
            return self._map(model, adapter, one, step, is_last, looking)

        self._measure(model, adapter, step, {"source": name, "mark": mark}, map_of)

    @exclusive
    def measure_statistics(self, model: nn.Module, step: int, name: str, statistics: Mapping[str, Statistics]) -> None:
        """Measure a checkpoint by statistics that are at hand, one for each concept; see `measure`."""

        def map_of(one: str, looking: _Looking) -> tuple[LocalizationMap, dict[str, Any]]:
            return self._located(model, statistics[one], looking), {}

        self._measure(model, adapt(model), step, {"source": name}, map_of, by_examples=False)

    def _measure(
        self,
        model: nn.Module,
        adapter: Adapter,
        step: int,
        said: dict[str, Any],
        map_of: Callable[[str, _Looking], tuple[LocalizationMap, dict[str, Any]]],
        by_examples: bool = True,
    ) -> None:
        """Write down the maps of all concepts, and by their examples what is answered and what they have in common."""
        began, before = time.perf_counter(), self._before(step)
        facts: dict[str, Any] = {**said, "since": None if before is None else before[0]}
        maps, headers, engrams = {}, {}, {}
        for concept in self.concepts:
            looking = _Looking(None if before is None else before[1])
            wmap, of_reference = map_of(concept, looking)
            for fact, value in of_reference.items():
                facts[fact] = max(value, facts.get(fact, value))  # of several concepts, the one that is farthest off
            maps[concept] = looking.added_to(wmap.table)
            headers[concept] = {one: getattr(wmap, one) for one in HEADER} | {"columns": list(wmap.table.columns)}
            engrams[concept] = looking.engrams
        answers = self._answers(model) if by_examples else pd.DataFrame(columns=ANSWERS)
        overlaps = self._overlaps(model) if by_examples else pd.DataFrame(columns=OVERLAPS)
        self._keep_weights(adapter, step)
        facts["seconds"] = time.perf_counter() - began
        Measured(step, facts, maps, headers, answers, overlaps, engrams).save(self._file(step))
        for path in self.folder.glob(f"{WEIGHTS}-*.safetensors"):
            if path != self._weights(step):
                path.unlink(missing_ok=True)

    def _map(
        self,
        model: nn.Module,
        adapter: Adapter,
        name: str,
        step: int,
        is_last: bool,
        looking: _Looking,
    ) -> tuple[LocalizationMap, dict[str, Any]]:
        """The map of a concept, and what keeping the reference's statistics costs."""
        how, concept = self.how, self.concepts[name]
        if how.reuse_reference == 1:
            wmap = located(model, concept, how.which, how.solve, how.run, Keep(), how.compare, looking)
            return wmap, {}
        of, age, kept = self._references.get(name, (0, 0, None))
        if kept is not None and age < how.reuse_reference and not is_last:
            self._references[name] = of, age + 1, kept
            return self._located(model, _joined(adapter, self._target(adapter, concept, kept), kept), looking), {}
        statistics = collect(model, concept, **vars(how.which), **vars(how.run))
        wmap = self._located(model, statistics, looking)
        self._references[name] = step, 1, statistics
        if kept is None:
            return wmap, {}
        stale = self._located(model, _joined(adapter, statistics.groups[TARGET], kept), lambda part: None)
        error = _largest_change(wmap, stale)
        logger.info(
            "step %d: the reference's statistics of step %d would change W-Norms of %r by up to %.2g of their size",
            step, of, name, error,
        )  # fmt: skip
        return wmap, {"reference_error": error, "reference_of": of}

    def _located(self, model: nn.Module, statistics: Statistics, look: Any) -> LocalizationMap:
        how = self.how
        return located(
            model, statistics, how.which, how.solve, how.run, Keep(), replace(how.compare, null="analytic"), look
        )

    def _target(self, adapter: Adapter, concept: Concept, reference: Statistics) -> Mapping[str, AnyMoment]:
        """The moments of the target alone, by the inputs of the reference."""
        sites = [site for site in adapter.all_sites() if site.key in set(reference.keys)]
        encoded = adapter.encode({TARGET: concept.target}, concept.read if concept.is_text else None)
        return moments_of(adapter, sites, encoded, self.how.run)[TARGET]

    def _answers(self, model: nn.Module) -> pd.DataFrame:
        """Accuracy and loss of every concept's sides, where there is something to be right about."""
        rows = []
        for name, concept in self.concepts.items():
            if not concept.is_text and not all(getattr(one, "is_labelled", False) for one in concept.sides.values()):
                continue
            eos = {"eos": concept.eos} if concept.is_text else {}
            found = score(model, concept.sides, **eos, **vars(replace(self.how.run, progress=False)))
            rows += [{"concept": name, "side": side, **asdict(one)} for side, one in found.items()]
        return pd.DataFrame(rows, columns=ANSWERS)

    def _overlaps(self, model: nn.Module) -> pd.DataFrame:
        """How much every two concepts have in common."""
        if len(self.concepts) < 2:
            return pd.DataFrame(columns=OVERLAPS)
        groups = {name: concept.target for name, concept in self.concepts.items()}
        first, read = next(iter(self.concepts.values())), {}
        if first.is_text:
            read = {"positions": first.positions, "eos": first.eos}
            known = {key_of(example) for side in groups.values() for example in side}
            if rest := [example for example in first.reference if key_of(example) not in known]:
                groups[REFERENCE] = rest
        how = self.how
        parts = decompose(model, groups, **read, **vars(how.which), **vars(how.solve), **vars(how.run))
        found = overlap(parts, list(self.concepts), progress=False).to_frame()
        return found[found["a"] != found["b"]][OVERLAPS].reset_index(drop=True)

    def _require_alike(self, adapter: Adapter, step: int) -> None:
        """Check that a checkpoint has the matrices and the tokens of those before.

        Raises:
            UnlikeError: if it has not.
        """
        now = {
            "step": step,
            "shapes": {site.key: list(adapter.shape(site)) for site in adapter.all_sites()},
            "tokens": {name: _tokens_of(adapter, one) for name, one in self.concepts.items() if _is_listed_text(one)},
        }
        first = self._known.setdefault("first", now)
        shapes, known = now["shapes"], first["shapes"]
        if differ := [key for key in {**known, **shapes} if known.get(key) != shapes.get(key)]:
            raise UnlikeError(
                f"step {step} is of another model than step {first['step']}: {differ[0]} is "
                f"{shapes.get(differ[0], 'missing')}, and was {known.get(differ[0], 'missing')}"
            )
        if differ := [name for name, tokens in now["tokens"].items() if tokens != first["tokens"].get(name)]:
            raise UnlikeError(
                f"the tokenizer of step {step} reads {differ[0]!r} as other tokens than that of step {first['step']}: "
                f"their maps cannot be compared"
            )
        if first is now:
            self._write_known()

    def _open(self) -> None:
        """Make the folder, or check that what it holds is this track."""
        settings = {"concepts": {name: _digest(one) for name, one in self.concepts.items()}, **self.how.to_dict()}
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / SETTINGS).is_file():
            self._known = {"settings": settings}
            self._write_known()
            return
        try:
            self._known = json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))
            known = dict(self._known["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.folder / SETTINGS} was altered or cut short: {error}") from None
        if differ := [name for name in settings if known.get(name) != settings[name]]:
            raise ValueError(
                f"{self.folder} holds a track with other {' and '.join(differ)}: give the same again, or another folder"
            )

    def _write_known(self) -> None:
        with replacing(self.folder / SETTINGS) as aside:
            aside.write_text(json.dumps(self._known, indent=2), encoding="utf-8")

    def _file(self, step: int) -> Path:
        return self.folder / f"step-{step:010d}.safetensors"

    def _weights(self, step: int) -> Path:
        return self.folder / f"{WEIGHTS}-{step:010d}.safetensors"

    def _keep_weights(self, adapter: Adapter, step: int) -> None:
        """Write the matrices of a checkpoint down, for the next one."""
        sites = adapter.sites(self.how.which.components, self.how.which.layers)
        kept = {path: adapter.parameter(path).detach().cpu().contiguous() for path in parameter_paths(sites)}
        with replacing(self._weights(step)) as aside:
            save_file(kept, aside)

    def _is_whole(self, path: Path) -> bool:
        """Whether the matrices of a checkpoint are there."""
        try:
            with safe_open(path, "pt"):
                return True
        except (OSError, SafetensorError):
            return False

    def _before(self, step: int) -> tuple[int, Path] | None:
        """The last checkpoint of an earlier step, and where its matrices are."""
        earlier = [one for one in self.steps if one < step and self._is_whole(self._weights(one))]
        return (earlier[-1], self._weights(earlier[-1])) if earlier else None


class _Looking:
    """What a track measures of every matrix beside its map. It is called with each part of a map.

    Args:
        before: the matrices of the checkpoint before.
    """

    def __init__(self, before: Path | None) -> None:
        self._before = before
        self.engrams: dict[str, Singular] = {}
        self._own: dict[str, dict[str, float]] = {}

    def __call__(self, part: Part) -> None:
        self.engrams[part.site.key] = singular(part.weight(part.W_plus).cpu())
        if self._before is None:
            return
        with safe_open(self._before, "pt") as file:
            tensors = {path: file.get_tensor(path) for path in parameter_paths([part.site])}
        change = part.W - matrix_in(tensors, part.site, part.data.absorbed).to(part.W.device)
        size = part.weight(part.W).norm()
        engram = part.data.engram(change)
        own = {"moved": part.weight(change), "delta": without_bias(engram, part.data.absorbed)}
        self._own[part.site.key] = {name: share(one.norm(), size).item() for name, one in own.items()}

    def added_to(self, table: pd.DataFrame) -> pd.DataFrame:
        """A map's table with the columns of a track; heads have none."""
        own = {
            name: [
                self._own.get(key, {}).get(name, float("nan")) if pd.isna(head) else float("nan")
                for key, head in zip(table["key"], table["head"], strict=True)
            ]
            for name in OWN
        }
        return table.assign(**own)


def _joined(adapter: Adapter, target: Mapping[str, AnyMoment], reference: Statistics) -> Statistics:
    """The target's moments of one checkpoint with the reference's of another."""
    groups = {TARGET: target, REFERENCE: reference.groups[REFERENCE]}
    return Statistics(
        adapter.info, reference.keys, groups, reference.name, reference.positions, keep_bytes=0, reads=reference.reads
    )


def _largest_change(wmap: LocalizationMap, other: LocalizationMap) -> float:
    """The largest relative change of a W-Norm."""
    sizes, found = (one.to_frame()["wnorm"] for one in (wmap, other))
    return float(((found - sizes).abs() / sizes.where(sizes > 0)).max())


def _is_listed_text(concept: Concept) -> bool:
    return concept.is_text and not concept.is_stream


def _tokens_of(adapter: Adapter, concept: Concept) -> str:
    """A digest of the tokens that a model reads of a concept."""
    encoded = adapter.encode_concept(concept)
    tensors: list[Tensor] = [part for some in encoded.values() for one in some for part in (one.tokens, one.counts)]
    return fingerprint(tensors)


def _digest(concept: Concept) -> str:
    """A digest of a concept's text; of batches only the name, since reading them takes long."""
    if not _is_listed_text(concept):
        return str(concept.name)
    told = repr([concept.positions, concept.eos, [list(map(key_of, side)) for side in concept.sides.values()]])
    return hashlib.sha256(told.encode()).hexdigest()
