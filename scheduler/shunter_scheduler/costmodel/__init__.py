"""Predicted seconds: model shapes, the calibrated roofline, and its straight-line summary."""

from shunter_scheduler.costmodel.hf_config import UnsupportedConfig, shape_from_config
from shunter_scheduler.costmodel.linear import LinearRates
from shunter_scheduler.costmodel.names import UnknownModel, model_shape
from shunter_scheduler.costmodel.roofline import CostModel, ModelDoesNotFit, cost_model
from shunter_scheduler.costmodel.shapes import ModelShape

__all__ = [
    "CostModel",
    "LinearRates",
    "ModelDoesNotFit",
    "ModelShape",
    "UnknownModel",
    "UnsupportedConfig",
    "cost_model",
    "model_shape",
    "shape_from_config",
]
