import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sharpeye.runs.decisions import VERDICTS
from sharpeye_app import gallery

GALLERY = Path(gallery.__file__).parent


def test_the_queue_of_decisions() -> None:
    """The gallery's queue keeps its promises, by node's own test runner."""
    node = shutil.which("node")
    if node is None and not os.environ.get("SHARPEYE_REQUIRE_BROWSER"):
        pytest.skip("needs node")
    assert node is not None, "node is not installed"
    tests = Path(__file__).with_name("queue.test.mjs")
    outcome = subprocess.run([node, "--test", str(tests)], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout


def test_the_gallery_is_one_script() -> None:
    script = gallery.component_script()
    assert "class DecisionQueue" in script
    assert "import " not in script.split("*/")[-1].replace("// ", "")
    assert script.count("export ") == 1


def test_a_verdict_s_meaning_stands_in_python_alone() -> None:
    script = (GALLERY / "gallery.js").read_text()
    styles = (GALLERY / "gallery.css").read_text()
    assert '"Keep"' not in script
    assert 'gives === "suggested"' in script
    for name in VERDICTS:
        assert f".card.{name} .badge" in styles, name
