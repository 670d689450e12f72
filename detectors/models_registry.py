"""The list of compiled models, and how they and learners' states become named arrays and back, alike for all of them.

A further model is a module with a compiled form, a name in `policy.ModelName`, a line here and one in
`models_learned.BUILD`. Nothing here needs River: workers only score.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from detectors.models import Arrays, Scorer
from detectors.models_hst import CompiledHst
from detectors.models_loda import CompiledLoda
from detectors.models_norm import CompiledNorm
from detectors.models_tails import CompiledTails
from detectors.models_trees import CompiledTrees
from detectors.policy import ModelName

COMPILED: Mapping[ModelName, type[Any]] = {
    "hst": CompiledHst,
    "loda": CompiledLoda,
    "isolation": CompiledTrees,
    "tails": CompiledTails,
    "norm": CompiledNorm,
    "forest": CompiledTrees,
}
"""The class of each model's compiled form, a frozen dataclass of arrays and numbers."""


def arrays_of(scorers: Mapping[ModelName, Scorer]) -> dict[str, np.ndarray[Any, Any]]:
    """Compiled models as `model.field` arrays."""
    return {
        f"{name}.{field.name}": np.asarray(getattr(scorer, field.name))
        for name, scorer in scorers.items()
        for field in fields(scorer)  # type: ignore[arg-type]  # a Scorer is a frozen dataclass, which a Protocol cannot say
    }


def scorers_of(arrays: Arrays) -> dict[ModelName, Scorer]:
    """The compiled models again. KeyError if an array is missing; shapes are for the caller to check."""
    made: dict[ModelName, Scorer] = {}
    for name, compiled in COMPILED.items():
        values = {field.name: arrays[f"{name}.{field.name}"] for field in fields(compiled)}
        made[name] = compiled(**{each: float(value) if value.ndim == 0 else value for each, value in values.items()})
    return made


def nested(parts: Mapping[str, Arrays]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of several parts under `part.array`."""
    return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}


def part(arrays: Arrays, name: str) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of one part, by their own names."""
    prefix = f"{name}."
    return {each.removeprefix(prefix): array for each, array in arrays.items() if each.startswith(prefix)}
