"""The browser timeline of a stored scene. `ltgs view SCENE` or `python -m viewer SCENE`."""

from __future__ import annotations

from typing import Any

__all__ = ["ViewerApp", "export_html", "view_scene"]


def __getattr__(name: str) -> Any:
    # viser and torch load only when something of the viewer is used.
    if name in ("ViewerApp", "view_scene"):
        from viewer import app

        return getattr(app, name)
    if name == "export_html":
        from viewer.static_export import export_html

        return export_html
    raise AttributeError(f"module 'viewer' has no attribute {name!r}")
