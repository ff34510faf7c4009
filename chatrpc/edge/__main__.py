"""Render the configurations under `envoy/` anew: `python -m chatrpc.edge`, from the repository's root."""

from __future__ import annotations

from pathlib import Path

from chatrpc.edge.deployments import rendered_files

for name, text in rendered_files().items():
    Path("envoy", name).write_text(text, encoding="utf-8")
