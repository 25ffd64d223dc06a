"""Pictures do not choose how a user's own are drawn."""

import subprocess
import sys

from matplotlib.figure import Figure

from seqrl.figures import png


def test_a_figure_is_a_png():
    assert png(Figure(figsize=(1, 1))).startswith(b"\x89PNG\r\n\x1a\n")


# Break: `import matplotlib.pyplot` in any report, which keeps figures open and may replace a notebook's backend.
def test_no_report_imports_pyplot():
    code = (
        "import sys, seqrl.calibrate, seqrl.comparison, seqrl.comparison.plot, seqrl.cli; "
        "import seqrl.reports.run, seqrl.reports.shipping, seqrl.reports.frontier, seqrl.reports.adaptation; "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
