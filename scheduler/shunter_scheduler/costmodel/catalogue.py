"""Architectures of common models by name."""

from collections.abc import Mapping
from dataclasses import replace

from shunter_scheduler.costmodel.dense_models import DENSE_MODELS
from shunter_scheduler.costmodel.expert_models import EXPERT_MODELS
from shunter_scheduler.costmodel.shapes import ModelShape

SHAPES: Mapping[str, ModelShape] = {
    name: replace(shape, name=name) for name, shape in {**DENSE_MODELS, **EXPERT_MODELS}.items()
}
