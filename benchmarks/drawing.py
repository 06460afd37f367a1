"""Drawings: matplotlib, which nothing else needs, so that it may be missing."""

from argparse import ArgumentParser
from typing import Any


def plotting() -> Any:
    """matplotlib's pyplot, which draws to files here. Raises ImportError."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    return plt


def require_plotting(options: ArgumentParser) -> None:
    """End with one sentence, before anything is measured, where nothing could be drawn."""
    try:
        plotting()
    except ImportError:
        options.error("--plot needs matplotlib, which is not installed; pip install 'carpool[benchmarks]'")
