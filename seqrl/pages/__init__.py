"""Pages that people look at: a run's, a comparison's, and its episodes step by step, each one file.

`html` escapes and lays out, `charts` draws; `run_page`, `comparison_page` and `inspector` put them together.
"""
