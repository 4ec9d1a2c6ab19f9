"""The documents as a site: `make docs` (Sphinx, MyST, Furo). The source is the repository's Markdown."""

from __future__ import annotations

from emq_compat import __version__

project = "emq-compat"
author = copyright = "emq-compat authors"  # noqa: A001
version = release = __version__

extensions = ["myst_parser", "sphinxcontrib.mermaid"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/decisions/*.md",
    "examples/*/README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
]
# Anchors as GitHub makes them, so that a link is right in both places.
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
# Terminal sessions, logs and message frames stand in blocks of no language.
highlight_language = "none"
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = "emq-compat"
html_show_sourcelink = False
html_copy_source = False
