"""Pictures by matplotlib's `Figure` alone: pyplot would choose how the whole process draws, a user's notebook included,
and keep every figure until it is closed."""

import io

from matplotlib.figure import Figure


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()
