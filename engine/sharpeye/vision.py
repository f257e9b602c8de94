"""torchvision and timm, imported only when needed, and also where compiled operators do not load."""

import importlib
from types import ModuleType

import torch


def torchvision_module(name: str) -> ModuleType:
    """Import `torchvision.<name>`.

    The wheels on the package index are built against CUDA; beside a CPU build of torch their operator library
    does not load, and torchvision then fails on import because it describes operators that were never
    declared. Nothing here uses those operators, so declaring their signatures is enough.
    """
    try:
        return importlib.import_module(f"torchvision.{name}")
    except RuntimeError:
        for operator in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        return importlib.import_module(f"torchvision.{name}")


def timm_module() -> ModuleType:
    """Import `timm`, which imports torchvision."""
    torchvision_module("ops")
    return importlib.import_module("timm")
