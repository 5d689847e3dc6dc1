"""Figures of a landscape for print: PNG, SVG or PDF, chosen by the file's suffix. Import late: Matplotlib is slow."""

import logging

# Matplotlib warns if its folders in the home cannot be written, although it then uses a temporary one.
_logger = logging.getLogger("matplotlib")
_level = _logger.level
_logger.setLevel(logging.ERROR)
import matplotlib  # noqa: E402

matplotlib.get_cachedir()
_logger.setLevel(_level)
