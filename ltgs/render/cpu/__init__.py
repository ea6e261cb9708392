"""The native backend: threaded SIMD kernels behind one differentiable function."""

from __future__ import annotations

from ltgs.render.cpu.function import render_cpu

__all__ = ["render_cpu"]
