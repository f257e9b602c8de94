"""What every benchmark ends with: its tables on the terminal, its figures in a file."""

import json
from pathlib import Path

from rich.console import Console, RenderableType

WIDTH = 120


def publish(name: str, figures: object, *shown: RenderableType) -> None:
    """Print tables or lines, and write the figures to .benchmarks/NAME.json."""
    Console(width=WIDTH).print(*shown, sep="\n")
    target = Path(f".benchmarks/{name}.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(figures, indent=1))
