"""The site: pages in Markdown, and two that are written from where commands and settings are declared."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import references  # noqa: E402

project = "cdn-listener"
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "cdn-listener"
exclude_patterns = ["_build"]
nitpicky = True
# Nothing is fetched from elsewhere when the site is read.
html_theme_options = {"top_of_page_buttons": []}
templates_path: list[str] = []

(HERE / "reference").mkdir(exist_ok=True)
for name, text in references.pages().items():
    path = HERE / "reference" / name
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")
